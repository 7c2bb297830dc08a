"""Write trajectories.npz: parameters of public optimizers and of transcriptions, in float64.

    pip install torch==2.13.0 numpy
    pip install --no-deps pytorch-optimizer==4.1.0 adabound==0.0.5
    python tests/reference/make_trajectories.py

None of these packages but NumPy is a dependency of jaxsharp or of its tests. Where a public
implementation does what the paper says it is stored, after the transcription in NumPy was found to
agree with it; else the transcription is. Keys that start with "differing" are of public
implementations as they are, which do something else.
"""

import functools

import adabound
import numpy as np
import numpy_optimizers
import numpy_sharpness
import pytorch_optimizer
import torch
from entries import BASES, RHO, SHARP, STEPS, entries, key, rates_of
from problems import FILE, PROBLEMS, is_weight, one_tensor, vector


def double_norm(groups, *, weight_adaptive=False):
    """The squared gradient norm, which pytorch-optimizer 4.1.0 rounds to float32."""
    total = torch.zeros(1, dtype=torch.float64)
    for group in groups:
        for p in group["params"]:
            scale = p.abs() if weight_adaptive and group.get("adaptive") else 1.0
            total += torch.sum((scale * p.grad) ** 2)
    return total


def torch_trajectory(make_optimizer, problem, steps):
    tensors = {name: torch.tensor(value) for name, value in problem.params.items()}

    def closure():
        grads = problem.grad({n: t.numpy() for n, t in tensors.items()}, problem.batch)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(np.asarray(grads[name]))
        return None, torch.zeros(())

    optimizer = make_optimizer(list(tensors.values()))
    found = {}
    for step in range(1, max(steps) + 1):
        closure()
        optimizer.step(closure)
        found[step] = vector({name: tensor.numpy() for name, tensor in tensors.items()})
    return np.stack([found[step] for step in steps])


def torch_base(base, problem):
    """(class, options) of a public implementation."""
    rate = rates_of(base, problem)
    lr = {"lr": rate["learning_rate"]}
    _, options = BASES[base]
    bound = {"final_lr": rate.get("final_lr"), "gamma": options.get("gamma")}
    return {
        "sgd": (torch.optim.SGD, lr),
        "heavy_ball": (torch.optim.SGD, lr | options),
        "heavy_ball_decay": (torch.optim.SGD, lr | options),
        "adagrad": (torch.optim.Adagrad, lr | options),
        "adam": (torch.optim.Adam, lr),
        "adam_decay": (torch.optim.Adam, lr | options),
        "adamw": (torch.optim.AdamW, lr | {"weight_decay": options.get("decoupled_weight_decay")}),
        "adabound": (adabound.AdaBound, lr | bound),
        "amsbound": (adabound.AdaBound, lr | bound | {"amsbound": True}),
        "adashift": (pytorch_optimizer.AdaShift, lr | {"keep_num": options.get("window")}),
    }[base]


def torch_alone(base, problem):
    """A function of the parameters that makes a public optimizer."""
    cls, options = torch_base(base, problem)
    return lambda params: cls(params, **options)


class Constant:
    """A schedule of rho as GSAM of pytorch-optimizer wants it."""

    def __init__(self, value):
        self.step = lambda: value


def torch_sharp(sharp, base, problem):
    """A function of the parameters that makes a public optimizer, or None if there is none."""
    rho, (_, options) = RHO[problem], SHARP[sharp]
    cls, base_options = torch_base(base, problem)
    sam = {"rho": rho, "perturb_eps": 0.0} | base_options
    gsam = {"alpha": options.get("alpha"), "perturb_eps": 0.0}
    return {
        "sam": lambda params: pytorch_optimizer.SAM(params, cls, **sam),
        "asam_everywhere": lambda params: pytorch_optimizer.SAM(params, cls, adaptive=True, **sam),
        "gsam": lambda params: pytorch_optimizer.GSAM(
            params, cls(params, **base_options), torch.nn.Identity(), Constant(rho), **gsam
        ),
    }.get(sharp)


def numpy_gradient(sharp, name):
    """The gradient of a problem, or a transcription's sharpness-aware one."""
    problem, rho = PROBLEMS[name], RHO[name]

    def grad(params):
        return problem.grad(params, problem.batch)

    if sharp is None:
        return grad
    if sharp == "sam":
        return numpy_optimizers.sam_grad(grad, rho)
    _, options = SHARP[sharp]
    if sharp == "m_sam":
        return numpy_sharpness.m_sam_grad(problem.grad, problem.batch, rho, **options)
    if sharp in IS_ADAPTED:
        eta, is_adapted = options["eta"], IS_ADAPTED[sharp]
        return numpy_sharpness.asam_grad(grad, rho, eta=eta, is_adapted=is_adapted)
    return SHARP_GRADIENTS[sharp](grad, rho, **options)


IS_ADAPTED = {"asam": is_weight, "asam_everywhere": lambda name: True}
SHARP_GRADIENTS = {
    "multi_step_sam": numpy_sharpness.multi_step_grad,
    "gsam": numpy_sharpness.gsam_grad,
    "look_sam": numpy_sharpness.look_sam_grad,
    "friendly_sam": numpy_sharpness.friendly_sam_grad,
    "momentum_sam": numpy_sharpness.momentum_sam_grad,
}
LOOPS = {
    "sgd": numpy_optimizers.sgd,
    "heavy_ball": numpy_optimizers.heavy_ball,
    "adagrad": numpy_optimizers.adagrad,
    "adam": numpy_optimizers.adam,
    "adabound": numpy_optimizers.adabound,
    "amsbound": functools.partial(numpy_optimizers.adabound, ams=True),
    "adashift": numpy_optimizers.adashift,
}


def numpy_trajectory(sharp, base, name):
    """The stored steps of a transcription, or None for weight decay, of which there is none."""
    if base not in LOOPS:
        return None
    rates = rates_of(base, name)
    options = BASES[base][1] | {"lr": rates["learning_rate"]}
    if "final_lr" in rates:
        options |= {"final_lr": rates["final_lr"], "base_lr": rates["learning_rate"]}
    trajectory = LOOPS[base](
        numpy_gradient(sharp, name), PROBLEMS[name].params, max(STEPS), **options
    )
    return np.stack([vector(trajectory[step]) for step in STEPS])


def distance(found, expected):
    gaps = np.linalg.norm(found - expected, axis=1)
    return np.max(gaps / np.linalg.norm(expected, axis=1))


def differing():
    """Public optimizers that differ from the papers, on the network with heavy ball or alone."""
    problem, rho = PROBLEMS["network"], RHO["network"]
    cls, base = torch_base("heavy_ball", "network")
    look = {"k": SHARP["look_sam"][1]["every"], "alpha": SHARP["look_sam"][1]["alpha"]} | base
    sigma, decay = SHARP["friendly_sam"][1].values()
    friendly = {"sigma": sigma, "lmbda": decay} | base
    makers = {
        "sam": lambda params: pytorch_optimizer.SAM(params, cls, rho=rho, **base),
        "look_sam": lambda params: pytorch_optimizer.LookSAM(params, cls, rho=rho, **look),
        "friendly_sam": lambda params: pytorch_optimizer.FriendlySAM(
            params, cls, rho=rho, **friendly
        ),
    }
    found = {name: torch_trajectory(make, problem, STEPS) for name, make in makers.items()}
    found["look_sam/one_tensor"] = torch_trajectory(makers["look_sam"], one_tensor(problem), STEPS)
    options = BASES["adashift"][1] | {"lr": rates_of("adashift", "network")["learning_rate"]}
    loop = numpy_optimizers.adashift_with_an_empty_window
    late = loop(lambda p: problem.grad(p, problem.batch), problem.params, max(STEPS), **options)
    found["adashift"] = np.stack([vector(late[step]) for step in STEPS])
    return {f"differing/{name}": trajectory for name, trajectory in found.items()}


def trajectory(sharp, base, name):
    """A public optimizer's, checked against the transcription; else the transcription's."""
    transcribed = numpy_trajectory(sharp, base, name)
    make = torch_alone(base, name) if sharp is None else torch_sharp(sharp, base, name)
    if make is None:
        return transcribed
    public = torch_trajectory(make, PROBLEMS[name], STEPS)
    if transcribed is not None:
        gap = distance(transcribed, public)
        print(f"{key(sharp, base, name):40} {gap:.1e}")
        assert gap < 1e-11, key(sharp, base, name)
    return public


def main():
    others = differing()
    pytorch_optimizer.optimizer.sam.get_global_gradient_norm = double_norm
    stored = {key(*entry): trajectory(*entry) for entry in entries()}
    np.savez(FILE, **stored, **others)


if __name__ == "__main__":
    main()
