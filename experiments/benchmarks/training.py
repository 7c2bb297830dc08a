"""The works on training steps: SAM and its variants, and the optimizers' own arithmetic."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
import tasks
from jax.flatten_util import ravel_pytree
from measuring import Contender, Target, Work, ratio

from jaxsharp import networks
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE, per_group, sam_gradient


class Sizes(NamedTuple):
    """How large the works are; `smoke` takes other data, too."""

    smoke: bool = False
    models: tuple[str, ...] = ("simple_batch", "mlp_1")
    batch_size: int = 128
    steps: int = 20  # in one program; a multiple of LookSAM's 5, so that its share is right
    updates: int = 200  # in one program that takes no gradients
    groups: tuple[int, ...] = (16, 32)


SMOKE = Sizes(True, ("tiny_cnn",), 8, 5, 10, (4,))
RHO, RATE = 0.05, 0.0005
# ReLU and pooling have kinks, at which rounding decides; a network without many is exact to 1e-5.
TOLERANCE = 0.1
BASE = "base, sgd"

# Gradients a step of the variants.
GRADIENTS = {
    "sam": 2,
    "asam": 2,
    "multi_step_sam": 3,
    "gsam": 2,
    "look_sam": 1.2,
    "friendly_sam": 2,
    "momentum_sam": 1,
}


def variant_works(sizes: Sizes) -> list[Work]:
    """Sharpness-aware steps beside steps of plain SGD, one work a network."""
    return [_variant_work(sizes, model) for model in sizes.models]


def _variant_work(sizes, model):
    n = sizes.batch_size * sizes.steps

    def contender(name, optimizer, gradient=_plain, keep_stats=True, read=_nothing):
        return Contender(name, _steps(sizes, optimizer, gradient, keep_stats), n, read=read)

    def plain_sgd():
        return optax.sgd(RATE)

    def wrapped(name):
        return lambda: SHARPNESS_AWARE[name](optax.sgd(RATE), RHO)

    whole = sizes.batch_size
    contenders = [
        contender(BASE, plain_sgd, read=_trained(0.0, whole)),
        contender("sam", wrapped("sam"), read=_trained(RHO, whole)),
        contender("optax.contrib.sam", _optax_sam, read=_trained(RHO, whole)),
        *(contender(name, wrapped(name)) for name in GRADIENTS if name != "sam"),
        # Without the clean pass's statistics nothing is left of that pass.
        contender("momentum_sam, no statistics", wrapped("momentum_sam"), keep_stats=False),
    ]
    targets = [
        ratio("SAM step / base step", "sam", BASE, "<=", 2.1),
        ratio("SAM, jaxsharp / optax.contrib", "sam", "optax.contrib.sam"),
        *(
            ratio(f"{name} step / base step, {count} gradients", name, BASE)
            for name, count in GRADIENTS.items()
            if name != "sam"
        ),
        ratio("the same without statistics", "momentum_sam, no statistics", BASE),
    ]
    for m in sizes.groups:
        for vmapped in (False, True):
            name = f"m_sam, m = {m}, {'vmapped' if vmapped else 'in turn'}"
            gradient = functools.partial(_m_sam_gradient, m, vmapped)
            contenders.append(contender(name, plain_sgd, gradient, read=_trained(RHO, m)))
            targets.append(ratio(f"{name} / SAM", name, "sam", "<=", 1.15))
    name = f"variants {model}"
    return Work(name, _setup(sizes, model), contenders, targets, _check(sizes), TOLERANCE)


def arithmetic_works(sizes: Sizes) -> list[Work]:
    """Steps of every optimizer beside its updates alone, one work a network."""
    return [_arithmetic_work(sizes, model) for model in sizes.models]


def _arithmetic_work(sizes, model):
    n, alone = sizes.batch_size * sizes.steps, sizes.batch_size * sizes.updates
    contenders, targets = [], []
    # An MLP's gradient has few operations a weight: nothing is demanded there.
    demand = () if model == "mlp_1" else ("<=", 0.05)
    for name, factory in OPTIMIZERS.items():
        updates = f"{name}, updates alone"
        contenders += [
            Contender(name, _steps(sizes, factory, _plain, True), n, read=_nothing),
            Contender(updates, _updates_alone(sizes, factory), alone, read=_nothing),
        ]
        text = f"{name}: updates alone / step"
        targets.append(ratio(text, updates, name, *demand, per=("examples",)))
        if name != "sgd":
            targets.append(Target(f"{name}: step beyond sgd's / step", (name, "sgd"), _beyond))
    return Work(f"arithmetic {model}", _setup(sizes, model), contenders, targets)


def _beyond(step, sgd):
    return 1 - sgd.seconds / step.seconds


def _setup(sizes, model):
    num = sizes.batch_size * sizes.steps
    return lambda: tasks.make_task(model, tasks.fashion_mnist, sizes.smoke, num)


def _nothing(placed, result):
    return None, None


def _trained(rho, m):
    """read() for the weights that steps with this rho and groups of m examples should reach."""
    return lambda placed, result: ((rho, m, result[0]), None)


def _value_and_grad(task):
    """(params, batch, stats) -> ((loss, stats), grads), the network in training mode."""

    def loss(params, batch, stats):
        logits, stats = task.network.apply(params, stats, batch[0], True)
        return networks.cross_entropy(logits, batch[1]), stats

    return jax.value_and_grad(loss, has_aux=True)


def _plain(value_and_grad):
    return value_and_grad


def _m_sam_gradient(m, vmapped, value_and_grad):
    """m-SAM as a pure function, as that gives the statistics without a pass of their own."""
    return per_group(sam_gradient(value_and_grad, RHO), m, vmapped=vmapped)


def _optax_sam():
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    return optax.contrib.sam(optax.sgd(RATE), ascent, opaque_mode=True)


def _order(sizes):
    """The examples of every step."""
    order = jax.random.permutation(jax.random.key(0), sizes.steps * sizes.batch_size)
    return order.reshape(sizes.steps, sizes.batch_size)


def _steps(sizes, factory, gradient, keep_stats):
    """prepare(task) for some training steps in one program, as in jaxsharp.training.epochs."""

    def prepare(task):
        optimizer = optax.with_extra_args_support(factory())
        value_and_grad = gradient(_value_and_grad(task))

        @jax.jit
        def train(params, stats, opt_state, data, order):
            def step(carry, indices):
                params, stats, opt_state = carry
                batch = jax.tree.map(lambda leaf: leaf[indices], data)

                def grad_fn(point, _):
                    return value_and_grad(point, batch, stats)[1]

                (_, new_stats), grads = value_and_grad(params, batch, stats)
                args = grads, opt_state, params
                updates, opt_state = optimizer.update(*args, grad_fn=grad_fn)
                params = optax.apply_updates(params, updates)
                return (params, new_stats if keep_stats else stats, opt_state), None

            return jax.lax.scan(step, (params, stats, opt_state), order)[0]

        opt_state = jax.jit(optimizer.init)(task.params)
        order = _order(sizes)
        return lambda: train(task.params, task.stats, opt_state, task.batch, order)

    return prepare


def _updates_alone(sizes, factory):
    """prepare(task) for updates from one gradient, times another number in every step."""

    def prepare(task):
        optimizer = factory()

        @jax.jit
        def update(params, opt_state, grads, scales):
            def step(carry, scale):
                params, opt_state = carry
                scaled = optax.tree.scale(scale, grads)
                updates, opt_state = optimizer.update(scaled, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), None

            return jax.lax.scan(step, (params, opt_state), scales)[0]

        grads = jax.jit(jax.grad(task.loss))(task.params, task.first(sizes.batch_size).batch)
        opt_state = jax.jit(optimizer.init)(task.params)
        scales = jax.random.uniform(jax.random.key(1), (sizes.updates,))
        return lambda: update(task.params, opt_state, grads, scales)

    return prepare


def _check(sizes):
    """check(task, examples, answer): relative difference of the way that the weights went."""

    def check(task, examples, answer):
        rho, m, params = answer
        start = np.asarray(ravel_pytree(task.params)[0], np.float64)
        way = np.asarray(ravel_pytree(params)[0], np.float64) - start
        true = _reference(task, sizes, rho, m) - start
        return float(np.linalg.norm(way - true) / np.linalg.norm(true)), ""

    return check


@functools.cache
def _reference(task, sizes, rho, m):
    """The weights after the steps in float64, flat, by no optimizer's code."""
    order = np.asarray(_order(sizes))
    with jax.enable_x64(True):
        widened = jax.tree.map(lambda a: jax.numpy.asarray(a, float), (task.params, task.stats))
        (flat, unflatten), stats = ravel_pytree(widened[0]), widened[1]

        @jax.jit
        def gradient(flat, batch):
            grads = _value_and_grad(task)(unflatten(flat), batch, stats)[1]
            return ravel_pytree(grads)[0]

        for chosen in order:
            mean = 0.0
            for start in range(0, sizes.batch_size, m):
                batch = jax.tree.map(lambda a, c=chosen[start : start + m]: a[c], task.batch)
                clean = gradient(flat, batch)
                mean += gradient(flat + rho * clean / np.linalg.norm(clean), batch)
            flat = flat - RATE * mean * m / sizes.batch_size
        return np.asarray(flat)
