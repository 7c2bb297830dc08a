"""How fast are the measures beside the public scripts for them, and do the values agree?

    pip install torch loss-landscapes && pip install --no-deps pylandscape
    python experiments/benchmarks/public_scripts.py --scripts DIR --out DIR

SimpleBatch after some steps of Adam on FashionMNIST, the same weights and examples for all. DIR has
sharpness.py and utils.py of the authors of Andriushchenko et al. 2023 (arXiv 2302.07011). What is
not installed is left out with a line. Of PyHessian's eigenvalues and traces curvature.py has the
times.

| work | question |
|---|---|
| worst case | adaptive worst case in the l-inf and the l2 ball, Auto-PGD of 20 steps, by groups |
| plane | the loss over a plane of two filter-normalized directions |
"""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import jax
import numpy as np
import tyro
from curvature import use_threads

NOTES = """
- worst case: mean over groups of the largest rise of the loss, a lower bound of one maximum from
  the same start; timings.csv has the rises, the error is the relative difference from jaxsharp's.
  The script takes two forward passes and a backward pass a step, jaxsharp one and one. Its ascent
  in the l2 ball goes along c g and not c^2 g in d = c z, is projected on the ellipsoid in d, has
  momentum in the first step, and after a halving resets the weights but not the perturbation.
- plane: the error is the largest relative difference of a loss from jaxsharp's at the same place.
  loss-landscapes has every other column one step lower than its page says, which is allowed for.
  pylandscape 0.1.3 takes a parameter's name, value and copy for its directions, moves no
  parameter, and returns the loss at the center everywhere.
"""


def public_scripts(
    *,
    scripts: Path = Path("sharpness-vs-generalization"),
    out: Path = Path("runs/benchmarks-public-scripts"),
    repeats: int = 3,
    threads: int = 2,
    smoke: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        scripts: Folder with the script of the adaptive worst case.
        out: Folder of the tables.
        repeats: Rounds in which all contenders take turns.
        threads: Cores used.
        smoke: Tiny network and data.
    """
    use_threads(threads)
    sys.path.append(str(scripts))
    import measuring
    import tables

    works = [worst_case(smoke, "linf"), worst_case(smoke, "l2"), plane(smoke)]
    command = f"python experiments/benchmarks/public_scripts.py --repeats {repeats}"
    command += f" --threads {threads}{' --smoke' * smoke}"
    options = {"command": command, "repeats": repeats, "cores": threads}
    rows = []
    for work in works:
        rows += measuring.measure(work, work.setup(), repeats)
    tables.write(out, rows, works, options, "Beside the public scripts", NOTES)
    print((out / "README.md").read_text())


def task_of(smoke, examples):
    """The trained network on some examples."""
    import tasks

    model, steps = ("tiny_cnn", 20) if smoke else ("simple_batch", 160)
    return tasks.make_task(model, tasks.fashion_mnist, smoke, examples, steps=steps)


# ---- Adaptive worst case ----


def worst_case(smoke, norm):
    """Both on the same groups of examples, one after the other."""
    from measuring import Contender, Work, ratio

    num, group = (32, 16) if smoke else (1024, 128)
    script = ("torch", "sharpness", "utils")
    mine = Contender("jaxsharp", lambda task: _own_worst_case(task, norm, group), num)
    theirs = Contender("script", lambda side: _script(side, norm, group), num, script, _placed)
    target = ratio("script / jaxsharp", "script", "jaxsharp", ">=", 2.0)
    found = {}

    def check(task, examples, answer):
        value = found.setdefault("jaxsharp", answer)
        return abs(answer - value) / value, f"rise {answer:.6g}"

    name = f"worst case, {norm}, {num} examples"
    return Work(name, lambda: task_of(smoke, num), [mine, theirs], [target], check)


def radius(norm):
    """The measure's own."""
    from jaxsharp import measures

    return getattr(measures.Options(), f"rho_{norm}_adaptive")


def _own_worst_case(task, norm, group):
    from jaxsharp import measures

    groups = [
        (task.images[i : i + group], task.labels[i : i + group])
        for i in range(0, len(task.labels), group)
    ]

    def run():
        found = [
            measures.worst_case(
                *(task.network, task.params, task.stats, each, jax.random.key(0)),
                **{"rho": radius(norm), "norm": norm, "adaptive": True},
                **{"steps": 20, "examples": group, "group": group},
            )
            for each in groups
        ]
        return np.mean([each.value for each in found])

    return run


def _placed(task):
    import tasks
    import torch

    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self: self  # the script asks for a GPU
    return tasks.to_torch(task)


def _script(side, norm, group):
    import sharpness
    import torch

    inputs, labels = side.inputs.split(group), side.labels.split(group)
    batches = [(x, None, y, None, None) for x, y in zip(inputs, labels, strict=True)]

    def run():
        with contextlib.redirect_stdout(io.StringIO()):
            rise, *_ = sharpness.eval_APGD_sharpness(
                *(side.module, batches, torch.nn.functional.cross_entropy, 0.0, 0.0),
                **{"rho": radius(norm), "n_iters": 20, "rand_init": False},
                **{"adaptive": True, "norm": norm},
            )
        return np.float64(rise)

    return run


# ---- Planes ----


def plane(smoke):
    """The same two directions for all, places -steps/2 to steps/2 of each."""
    from measuring import Contender, Work, ratio

    num, steps = (16, 4) if smoke else (256, 10)

    def setup():
        task = task_of(smoke, num)
        return task, directions(task, steps), steps

    needs = ("torch", "loss_landscapes"), ("torch", "pylandscape")
    contenders = [
        Contender("jaxsharp", _own_plane, num),
        Contender("loss-landscapes", _loss_landscapes, num, needs[0], _moved, _zigzag),
        Contender("pylandscape", _pylandscape, num, needs[1], _moved, _all_but_the_last),
    ]
    targets = [
        ratio(f"{name} / jaxsharp", name, "jaxsharp", ">=", 2.0)
        for name in ("loss-landscapes", "pylandscape")
    ]
    found = {}

    def check(task, examples, answer):
        """Of a peer: where it is on the plane, and its losses there."""
        mine = found.setdefault("jaxsharp", answer)
        places, losses = (..., answer) if answer is mine else answer
        error = np.max(np.abs(losses - mine[places]) / mine[places])
        return float(error), f"losses {losses.min():.4g} to {losses.max():.4g}"

    return Work(f"plane, {steps} x {steps}, {num} examples", setup, contenders, targets, check)


def places(steps):
    """Steps along a direction, one more than there are places."""
    return np.arange(steps + 1) - steps / 2


def directions(task, steps):
    """Two filter-normalized directions, as long as a tenth of the weights divided by the steps."""
    from jaxsharp.core.trees import norm, scaled_to_norm
    from jaxsharp.measures import directions

    keys = jax.random.split(jax.random.key(0))
    drawn = [directions.filter_normalized(key, task.params) for key in keys]
    return [scaled_to_norm(each, 0.1 * norm(task.params) / steps) for each in drawn]


def _own_plane(setup):
    from jaxsharp import measures

    task, both, steps = setup
    where = (task.network, task.params, task.stats, task.batch, tuple(both))
    return lambda: np.asarray(measures.loss_plane(*where, places(steps)[:-1], places(steps))).T


def _moved(setup):
    """The module, and the directions as its tensors."""
    import tasks

    task, both, steps = setup
    side = tasks.to_torch(task)
    return side, [tasks.list_of_tensors(each, side.module) for each in both], steps


def _loss_landscapes(placed):
    import torch
    from loss_landscapes.metrics import Loss
    from loss_landscapes.model_interface.model_parameters import ModelParameters

    landscapes = importlib.import_module("loss_landscapes.main")
    side, both, steps = placed
    metric = Loss(torch.nn.functional.cross_entropy, side.inputs, side.labels)

    def run():
        given = [ModelParameters([x.clone() for x in each]) for each in both]
        landscapes.rand_u_like = lambda start: given[0]
        landscapes.orthogonal_to = lambda other: given[1]
        # A step is the norm of the weights / distance / steps; this distance leaves the directions.
        return landscapes.random_plane(side.module, metric, 10.0, steps, None, deepcopy_model=True)

    return run


def _zigzag(placed, losses):
    """Columns that are walked down begin after the first step, those walked up after the last."""
    columns, rows = np.indices(losses.shape)
    return ((columns, rows + (columns + 1) % 2), losses), None


def _pylandscape(placed):
    import torch
    from pylandscape.surface import Surface

    side, both, steps = placed
    batches = [(side.inputs, side.labels)]
    surface = Surface(side.module, torch.nn.functional.cross_entropy, batches)

    def run():
        given = [[x.clone() for x in each] for each in both]
        return surface._compute_hyperplane(given, list(places(steps)[:-1]))

    return run


def _all_but_the_last(placed, losses):
    columns, rows = np.indices(losses.shape)
    return ((columns, rows), losses), None


if __name__ == "__main__":
    tyro.cli(public_scripts)
