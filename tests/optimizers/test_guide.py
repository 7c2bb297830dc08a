"""The loops of the guide on optimizers take the steps of SAM."""

import functools
import inspect
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import optimizers
from jaxsharp.optimizers import SHARPNESS_AWARE, sam, sam_gradient

GUIDE = (Path(__file__).parents[2] / "jaxsharp/optimizers/README.md").read_text()


@pytest.fixture(scope="module")
def loops():
    """The names that the section on optimizers defines."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.S):
        exec(compile(block, "GUIDE", "exec"), names)
    return names


def optimizer_section():
    return GUIDE.split("\n## Sharpness-aware optimizers\n")[1].split("\n## ")[0]


def sam_steps(loss, params, batch, num=3, rho=0.05, rate=0.1, momentum=0.9):
    """The flat parameters after some steps of SAM with momentum, by the formulas."""
    flat, unflatten = ravel_pytree(params)
    gradient = jax.grad(lambda flat: loss(unflatten(flat), batch))
    buffer = 0.0
    for _ in range(num):
        clean = gradient(flat)
        buffer = momentum * buffer + gradient(flat + rho * clean / np.linalg.norm(clean))
        flat = flat - rate * buffer
    return flat


def assert_same(tree, flat):
    np.testing.assert_allclose(ravel_pytree(tree)[0], flat, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_optax_loop_and_optaxs_own_sam_take_sam_steps(loops):
    params, batch, loss = loops["params"], loops["batch"], loops["loss"]
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    theirs = optax.contrib.sam(loops["base"], ascent, opaque_mode=True)
    ours, state, same, their_state = params, loops["opt_state"], params, theirs.init(params)
    grad_fn = jax.grad(lambda params, i: loss(params, batch))
    for _ in range(3):
        ours, state, value = loops["step"](ours, state, batch)
        args = grad_fn(same, 0), their_state, same
        updates, their_state = theirs.update(*args, grad_fn=grad_fn)
        same = optax.apply_updates(same, updates)
    assert_same(ours, sam_steps(loss, params, batch))
    assert_same(same, sam_steps(loss, params, batch))
    twice = sam_steps(loss, params, batch, num=2)
    np.testing.assert_allclose(value, loss(ravel_pytree(params)[1](twice), batch), rtol=1e-5)


@pytest.mark.slow
def test_accumulated_gradients_are_sam_or_m_sam_as_the_readme_says(loops):
    params, batch, loss = loops["params"], loops["batch"], loops["loss"]
    value_and_grad = jax.value_and_grad(loss)
    parts = optimizers.per_group(value_and_grad, 32)
    flat = ravel_pytree(params)[0]
    whole = (flat - sam_steps(loss, params, batch, num=1)) / 0.1
    assert_same(sam_gradient(parts, 0.05)(params, batch)[1], whole)

    groups_of_32 = jax.tree.map(lambda a: a.reshape(4, 32, *a.shape[1:]), batch)
    split = [jax.tree.map(lambda a, i=i: a[i], groups_of_32) for i in range(4)]
    mean = sum((flat - sam_steps(loss, params, part, num=1)) / 0.1 for part in split) / 4
    assert np.linalg.norm(mean - whole) > 1e-3 * np.linalg.norm(whole)
    assert_same(
        optimizers.per_group(sam_gradient(value_and_grad, 0.05), 32)(params, batch)[1], mean
    )

    optimizer = sam(optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation())
    state = optimizer.init(params)
    for part in split:
        grad_fn = functools.partial(lambda part, p: jax.grad(loss)(p, part), part)
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
    assert_same(optax.apply_updates(params, updates), flat - 0.1 * mean)


def test_the_table_of_variants_names_all_with_their_default_rho():
    lines = re.findall(r"^\| \w+ \|.*$", optimizer_section(), re.M)
    rows = [line.split(" | ") for line in lines]
    table = {cells[0].removeprefix("| "): float(cells[3]) for cells in rows if len(cells) == 5}
    assert table == {
        name: inspect.signature(wrapper).parameters["rho"].default
        for name, wrapper in SHARPNESS_AWARE.items()
    }
