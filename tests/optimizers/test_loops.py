"""Every training loop of the guides, over networks with BatchNorm and dropout, takes SAM's steps.

The loops are the guides' own code. What they do is compared with SAM by its formulas in NumPy: the
gradient of a function of the flat parameters, at statistics and a key that a step begins with.
"""

import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree

from jaxsharp import optimizers

ROOT = Path(__file__).parents[2]
GUIDES = {"readme": ROOT / "README.md", "guide": ROOT / "jaxsharp/optimizers/README.md"}
NETWORKS = {
    "plain": (False, 0.0),
    "norm": (True, 0.0),
    "dropout": (False, 0.5),
    "both": (True, 0.5),
}
STEPS, RHO, RATE, MOMENTUM = 3, 0.05, 0.1, 0.9
# Rounding of float32, which the direction of the ascent passes on.
RTOL, ATOL = 1e-4, 1e-5


@pytest.fixture(scope="module")
def blocks():
    """The names that the blocks of both guides define, from those with an optimizer on."""
    made = {}
    for name, path in GUIDES.items():
        names = {"jax": jax, "jnp": jnp, "loss": None, "params": {"w": jnp.zeros(2)}}
        for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.S):
            if "optimizers.sam" in block or name == "guide":
                exec(compile(block.split("\nfor _ in")[0], str(path), "exec"), names)
        made[name] = names
    return made


def batch_of(num=24, width=20):
    x = jax.random.normal(jax.random.key(0), (num, width))
    return x, jnp.sin(x[:, 0])


def sam_steps(forward, params, extra, keys):
    """Flat parameters, extra state and values of SAM with momentum; forward(params, extra, key)."""
    flat, unflatten = ravel_pytree(params)
    loss = jax.jit(lambda flat, extra, key: forward(unflatten(flat), extra, key))
    gradient = jax.jit(jax.grad(lambda *args: loss(*args)[0]))
    flat, momentum, values = np.asarray(flat, np.float64), 0.0, []
    for key in keys:
        clean = np.asarray(gradient(jnp.float32(flat), extra, key), np.float64)
        there = flat + RHO * clean / np.linalg.norm(clean)
        momentum = MOMENTUM * momentum + np.asarray(gradient(jnp.float32(there), extra, key))
        value, extra = loss(jnp.float32(flat), extra, key)
        values.append(value)
        flat = flat - RATE * momentum
    return flat, extra, values


def assert_sam(found, expected):
    """Parameters, statistics and the values of the clean pass."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            ravel_pytree(ours)[0], ravel_pytree(theirs)[0], rtol=RTOL, atol=ATOL
        )


def afresh(step):
    """A guide's step, compiled for the networks that its names mean now."""
    return jax.jit(lambda *args: step.__wrapped__(*args))


def base():
    return optimizers.sam(optax.sgd(RATE, momentum=MOMENTUM), rho=RHO)


KEYS = [jax.random.key(10 + i) for i in range(STEPS)]


class Linen(linen.Module):
    norm: bool
    rate: float

    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(6)(x)
        if self.norm:
            x = linen.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(linen.tanh(x))
        return linen.Dense(1)(x)[:, 0]


def linen_forward(network):
    """(params, stats, key) -> the training loss and the statistics, and a start."""
    module, (x, y) = Linen(*NETWORKS[network]), batch_of()
    stats = dict(module.init(jax.random.key(1), x, train=False))

    def forward(params, stats, key):
        args = {"rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        outputs, new = module.apply({"params": params, **stats}, x, train=True, **args)
        return jnp.mean((outputs - y) ** 2), dict(new)

    return module, forward, stats.pop("params"), stats


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("guide", GUIDES)
def test_the_optax_loops(blocks, guide, network, monkeypatch):
    """With a loss of the parameters and the batch alone: one key, statistics not kept."""
    _, forward, params, stats = linen_forward(network)
    names = blocks[guide]
    monkeypatch.setitem(names, "loss", lambda params, batch: forward(params, stats, KEYS[0])[0])
    monkeypatch.setitem(names, "optimizer", base())
    step = afresh(names["step"])
    ours, opt_state, values = params, names["optimizer"].init(params), []
    for _ in KEYS:
        ours, opt_state, *value = step(ours, opt_state, batch_of())
        values += value
    fixed = lambda params, _, key: (forward(params, stats, KEYS[0])[0], stats)  # noqa: E731
    expected, _, losses = sam_steps(fixed, params, stats, KEYS)
    assert_sam([ours, values], [expected, losses if values else []])


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_linen_loop(blocks, network, monkeypatch):
    module, forward, params, stats = linen_forward(network)
    names = blocks["guide"]
    monkeypatch.setitem(names, "linen", module)
    args = {"apply_fn": module.apply, "params": params, "tx": base(), "stats": stats}
    state, values = names["State"].create(**args), []
    step = afresh(names["linen_step"])
    for key in KEYS:
        state, value = step(state, batch_of(), key)
        values.append(value)
    found = [state.params, state.stats, values]
    assert_sam(found, sam_steps(forward, params, stats, KEYS))
    assert int(state.step) == STEPS


class Model(nnx.Module):
    def __init__(self, norm, rate, rngs):
        self.hidden, self.out = nnx.Linear(20, 6, rngs=rngs), nnx.Linear(6, 1, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs) if norm else lambda x: x
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.tanh(self.norm(self.hidden(x)))))[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sam", "multi_step_sam"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_nnx_loop(blocks, network, variant):
    """Also where the gradient is asked for more often than twice: each pass draws the same."""
    x, y = batch_of()
    model = Model(*NETWORKS[network], nnx.Rngs(0))
    graph, params, rest = nnx.as_pure(nnx.split(model, nnx.Param, ...))

    def forward(params, rest, key):
        module = nnx.merge(graph, params, rest)
        value = jnp.mean((module(x) - y) ** 2)
        return value, nnx.as_pure(nnx.split(module, nnx.Param, ...)[2])

    wrap = getattr(optimizers, variant)
    options = {} if variant == "sam" else {"num_steps": 2}
    rule = wrap(optax.sgd(RATE, momentum=MOMENTUM), rho=RHO, **options)
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
    step = blocks["guide"]["nnx_step"]
    values = [step(model, optimizer, batch_of()) for _ in KEYS]
    if variant == "sam":
        expected = sam_steps(forward, params, rest, KEYS)
    else:
        expected = two_ascents(forward, params, rest, KEYS)
    params, rest = nnx.as_pure(nnx.split(model, nnx.Param, ...)[1:])
    flat, other, losses = expected
    assert_sam([params, floats(rest), values], [flat, floats(other), losses])
    draws = STEPS if NETWORKS[network][1] else 0
    assert counts(rest) == counts(other) == [draws]


def two_ascents(forward, params, extra, keys):
    """As `sam_steps`, for two ascents of half the length."""
    flat, unflatten = ravel_pytree(params)
    loss = jax.jit(lambda flat, extra: forward(unflatten(flat), extra, None))
    gradient = jax.jit(jax.grad(lambda *args: loss(*args)[0]))
    momentum, values = 0.0, []
    for _ in keys:
        there = flat
        for _ in range(2):
            slope = gradient(there, extra)
            there = there + RHO / 2 * slope / np.linalg.norm(slope)
        momentum = MOMENTUM * momentum + gradient(there, extra)
        value, extra = loss(flat, extra)
        values.append(value)
        flat = flat - RATE * momentum
    return flat, extra, values


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def counts(tree):
    """How often each stream of random numbers has been asked."""
    return [int(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.uint32]


class Module(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm | None
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, norm, rate, key):
        self.hidden = eqx.nn.Linear(20, 6, key=key)
        self.out = eqx.nn.Linear(6, "scalar", key=jax.random.fold_in(key, 1))
        self.norm = eqx.nn.BatchNorm(6, "batch", mode="batch", momentum=0.5) if norm else None
        self.dropout = eqx.nn.Dropout(rate)

    def __call__(self, x, state, key):
        x = self.hidden(x)
        if self.norm is not None:
            x, state = self.norm(x, state)
        return self.out(self.dropout(jnp.tanh(x), key=key)), state


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_equinox_loop(blocks, network, monkeypatch):
    names, optimizer = blocks["guide"], base()
    make = eqx.nn.make_with_state(Module)
    model, state = make(*NETWORKS[network], jax.random.key(1))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def forward(params, state, key):
        return names["model_loss"](eqx.combine(params, static), state, batch_of(), key)

    expected = sam_steps(forward, params, state, KEYS)
    monkeypatch.setitem(names, "optimizer", optimizer)
    opt_state, values = optimizer.init(params), []
    for key in KEYS:
        model, state, opt_state, value = names["model_step"](
            model, state, opt_state, batch_of(), key
        )
        values.append(value)
    found = [eqx.filter(model, eqx.is_inexact_array), floats(state), values]
    assert_sam(found, [expected[0], floats(expected[1]), expected[2]])


@pytest.mark.slow
def test_the_loops_of_the_guide_run_as_they_are(blocks):
    """With the networks that they show, which have BatchNorm and dropout."""
    names, key = blocks["guide"], jax.random.key(0)
    model, optimizer, batch = names["nnx_model"], names["nnx_optimizer"], names["batch"]
    losses = [float(names["nnx_step"](model, optimizer, batch)) for _ in range(30)]
    assert losses[-1] < losses[0] and int(model.dropout.rngs.count[...]) == 30
    state = names["state"]
    for _ in range(30):
        state, value = names["linen_step"](state, batch, key)
    assert value < names["linen_loss"](names["linen_params"], names["stats"], batch, key)[0]


def test_gradients_that_do_not_fit_are_one_line():
    params = {"w": jnp.ones(3), "b": jnp.ones(())}
    optimizer = base()
    state = optimizer.init(params)
    for grads, wrong in [
        ({"w": jnp.ones(3)}, "the result of grad_fn must have the structure of params"),
        ({"w": jnp.ones((2, 3)), "b": jnp.ones(())}, "at ['w'] it has (2, 3), not (3,)"),
        ({"w": (jnp.ones(3), jnp.ones(3)), "b": jnp.ones(())}, "it has (3,), (3,), not (3,)"),
        ({"w": None, "b": jnp.ones(())}, "at ['w'] it has nothing, not (3,)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(wrong)) as caught:
            optimizer.update(params, state, params, grad_fn=lambda p, grads=grads: grads)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^grads must have the structure of params"):
            optimizer.update(grads, state, params, grad_fn=lambda p: p)
