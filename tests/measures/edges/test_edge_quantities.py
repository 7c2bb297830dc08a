"""Curvatures along training against dense matrices in float64, on a tiny network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import optimizers
from jaxsharp.measures import edges
from tests.cases import guarded_exp

pytestmark = pytest.mark.usefixtures("x64")
LR, STEPS = 0.05, 14  # more than AdaShift's window


def loss(params, batch):
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["first"] + params["bias"])
    return jnp.square(hidden @ params["last"] - targets).sum(1).mean() / 2


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 3)), rng.normal(size=(20, 2))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    shapes = {"first": (3, 4), "bias": (4,), "last": (4, 2)}
    return {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}


def dense(params, batch):
    """Gradient and Hessian as a vector and a matrix."""
    flat, unravel = ravel_pytree(params)
    of_flat = lambda x: loss(unravel(x), batch)  # noqa: E731
    return jax.grad(of_flat)(flat), jax.hessian(of_flat)(flat)


def curvature_along(vector, matrix):
    return vector @ matrix @ vector / (vector @ vector)


def trained(optimizer, params, data):
    """Parameters and state after some full-batch steps, and the updates of the last."""
    params, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    step = jax.jit(lambda p, s: optimizer.update(jax.grad(loss)(p, data), s, p))
    for _ in range(STEPS):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    return params, state, updates


B1, RARE = 0.8, {"b1": 0.8, "b2": 0.97}
# Each with its D, and its first moment, as its docstring has them.
ADAPTIVE = {
    "adam": (
        lambda: optimizers.adam(LR, **RARE),
        lambda s: edges.adam_preconditioner(s, b2=RARE["b2"]),
        lambda s: optax.tree.scale(1 / (1 - B1**STEPS), optax.tree.get(s, "mu")),
    ),
    "adashift": (
        lambda: optimizers.adashift(LR, **RARE),
        lambda s: edges.adashift_preconditioner(s, b2=RARE["b2"]),
        None,
    ),
    "adabound": (
        lambda: optimizers.adabound(LR, final_lr=0.3, gamma=0.2, **RARE),
        lambda s: edges.adabound_preconditioner(s, LR, final_lr=0.3, gamma=0.2, **RARE),
        lambda s: s.m,
    ),
    "amsbound": (
        lambda: optimizers.amsbound(LR, final_lr=0.3, gamma=0.2, **RARE),
        lambda s: edges.adabound_preconditioner(s, LR, final_lr=0.3, gamma=0.2, **RARE),
        lambda s: s.m,
    ),
    "adagrad": (
        lambda: optimizers.adagrad(LR),
        lambda s: edges.adagrad_preconditioner(s),
        None,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_preconditioned_eigenvalue(name, params, data):
    """D is that of the real step, and the eigenvalue that of the dense matrix."""
    make, preconditioner, moment = ADAPTIVE[name]
    # Decay and a sharpness-aware wrapper put the state into others, and change the gradients.
    at, state, updates = trained(make(), params, data)
    diagonal = preconditioner(state)
    if name == "adagrad":
        before = optax.tree.sub(at, updates)
        first = jax.grad(loss)(before, data)
    elif name == "adashift":
        found = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, optimizers.AdaShiftState))
        rings, newest = found[0].gradients, (STEPS - 1) % 10
        weights = B1 ** ((newest - np.arange(10)) % 10)
        first = jax.tree.map(lambda r: np.tensordot(weights / weights.sum(), r, 1), rings)
    else:
        first = moment(state)
    step = jax.tree.map(lambda m, d: -LR * m / d, first, diagonal)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), step, updates)
    _, matrix = dense(at, data)
    root = 1 / jnp.sqrt(ravel_pytree(diagonal)[0])
    exact = jnp.linalg.eigvalsh(root[:, None] * matrix * root)[-1]
    found = edges.followed_eigenvalue(
        *(loss, at, data), key=jax.random.key(0), diagonal=diagonal, tol=1e-6
    )
    np.testing.assert_allclose(found.value, exact, rtol=1e-9)


def test_a_state_inside_of_others(params, data):
    base = optimizers.adam(LR, decoupled_weight_decay=0.1, weight_decay=0.1)
    state = optimizers.sam(optax.chain(optax.clip(1.0), base)).init(params)
    assert jax.tree.structure(edges.adam_preconditioner(state)) == jax.tree.structure(params)
    with pytest.raises(ValueError, match="state holds 0 AdagradState; it must hold one"):
        edges.adagrad_preconditioner(state)


@pytest.mark.slow
def test_what_does_not_move_has_no_curvature(params, data):
    """Columns that are always zero: their weights get no gradient, and Adagrad takes no step."""
    data = data[0] * np.array([1.0, 1.0, 0.0]), data[1]
    at, state, _ = trained(optimizers.adagrad(LR), params, data)
    diagonal = edges.adagrad_preconditioner(state)
    assert (np.asarray(diagonal["first"][2]) == np.finfo(np.float64).max).all()
    still = edges.followed_eigenvalue(loss, at, data, key=jax.random.key(0), diagonal=diagonal)
    moving = dict(diagonal, first=diagonal["first"].at[2].set(1.0))
    alike = edges.followed_eigenvalue(loss, at, data, key=jax.random.key(0), diagonal=moving)
    np.testing.assert_allclose(still.value, alike.value, rtol=1e-6)


@pytest.mark.slow
def test_a_followed_eigenvalue_starts_where_the_last_one_ended(params, data):
    key = jax.random.key(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    first = edges.followed_eigenvalue(loss, params, data, key=key, start=zeros)
    np.testing.assert_allclose(first.value, np.linalg.eigvalsh(dense(params, data)[1])[-1], 1e-3)
    near = jax.tree.map(lambda leaf: leaf * 1.001, params)
    again = edges.followed_eigenvalue(loss, near, data, key=key, start=first.vector)
    exact = np.linalg.eigvalsh(dense(near, data)[1])[-1]
    np.testing.assert_allclose(again.value, exact, rtol=1e-3)
    assert again.num_products < first.num_products


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "met"), [({"tol": 0.3}, True), ({"tol": 1e-6, "max_products": 2}, False)]
)
@pytest.mark.parametrize("sample", [0.0, 0.4])
def test_the_residual_of_few_products_is_that_of_the_vector(params, data, limits, met, sample):
    """No product at the end measures it, and a start from a sample has no part in it."""
    matrix = dense(params, data)[1]
    options = {"key": jax.random.key(2), "sample": sample, **limits}
    found = edges.followed_eigenvalue(loss, params, data, **options)
    vector = ravel_pytree(found.vector)[0]
    left = np.linalg.norm(matrix @ vector - found.value * vector)
    np.testing.assert_allclose(found.residual, left, rtol=1e-6)
    assert found.converged == met == (found.residual <= limits["tol"] * found.value)
    assert np.abs(np.linalg.eigvalsh(matrix) - found.value).min() <= found.residual
    assert 1 < found.num_products <= 4 + (sample > 0)  # two of 0.4 of the examples cost one


@pytest.mark.slow
def test_an_eigenvector_is_known_again_by_one_product(params, data):
    values, vectors = np.linalg.eigh(dense(params, data)[1])
    start = ravel_pytree(params)[1](vectors[:, -1])
    again = edges.followed_eigenvalue(
        loss, params, data, key=jax.random.key(0), start=start, tol=0.1
    )
    assert again.num_products == 1 and again.converged
    np.testing.assert_allclose(again.value, values[-1], rtol=1e-3)


def test_a_sample_is_a_share(params, data):
    with pytest.raises(ValueError, match=r"sample is 1.0; it must be from 0 to below 1"):
        edges.followed_eigenvalue(loss, params, data, key=jax.random.key(0), sample=1.0)


@pytest.mark.slow
def test_batch_sharpness(params, data):
    key, size, count = jax.random.key(3), 4, 40
    found = edges.batch_sharpness(
        *(loss, params, data), batch_size=size, key=key, rtol=0.0, max_batches=count
    )
    values = []
    for i in range(count):
        own = jax.random.fold_in(key, i)
        chosen = jax.random.choice(own, len(data[0]), (size,), replace=False)
        values.append(curvature_along(*dense(params, tuple(x[chosen] for x in data))))
    np.testing.assert_allclose(found.mean, np.mean(values), rtol=1e-10)
    np.testing.assert_allclose(found.stderr, np.std(values, ddof=1) / np.sqrt(count), rtol=1e-8)
    assert found.num_batches == count and not found.converged
    whole = edges.batch_sharpness(loss, params, data, batch_size=len(data[0]), key=key)
    np.testing.assert_allclose(whole.mean, curvature_along(*dense(params, data)), rtol=1e-10)
    assert whole.num_batches == 30 and whole.stderr < 1e-12


@pytest.mark.slow
def test_directional_and_critical_sharpness_of_a_network(params, data):
    at, state, _ = trained(optimizers.adam(LR), params, data)
    optimizer = optimizers.adam(LR)
    updates, _ = optimizer.update(jax.grad(loss)(at, data), state, at)
    gradient, matrix = dense(at, data)
    step = ravel_pytree(updates)[0]
    exact = -(step @ matrix @ step) / (LR * (step @ gradient))
    options = {"learning_rate": LR}
    found = edges.directional_sharpness(loss, at, data, updates, **options)
    np.testing.assert_allclose(found, exact, rtol=1e-10)
    tight = jax.jit(
        lambda at, updates: edges.critical_sharpness(loss, at, data, updates, **options, rtol=1e-4)
    )(at, updates)
    scale = 2 / (LR * tight.value)
    along = lambda c: loss(jax.tree.map(lambda p, s: p + c * s, at, updates), data)  # noqa: E731
    assert along(scale * 0.9999) < along(0.0) < along(scale * 1.0001)
    scales = np.linspace(0, 0.999 * scale, 50)[1:]
    assert all(along(c) < along(0.0) for c in scales)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 21}, "batch_size is 21; it must be from 1 to 20"),
        ({"batch_size": 4, "max_batches": 1}, "max_batches is 1; a standard error needs at least"),
        ({"batch_size": 4, "rtol": -0.1}, "rtol is -0.1; it must be at least 0"),
    ],
)
def test_wrong_batches(params, data, options, says):
    with pytest.raises(ValueError, match=says):
        edges.batch_sharpness(loss, params, data, key=jax.random.key(0), **options)


def test_a_wrong_width(params, data):
    with pytest.raises(ValueError, match=r"rtol is 1\.0; it must be above 0"):
        edges.critical_sharpness(loss, params, data, params, learning_rate=LR, rtol=1.0)


def through(exp):
    """A loss of parameters through a function like exp."""

    def loss(params, batch):
        hidden = exp(batch[0] @ params["first"] + params["bias"])
        return jnp.square(hidden @ params["last"] - batch[1]).sum(1).mean() / 2

    return loss


def test_a_rule_that_calls_its_own_function_has_no_forward_mode(params, data):
    """Pitfall 6."""
    update = jax.tree.map(lambda g: -LR * g, jax.grad(through(jnp.exp))(params, data))
    own = {"batch_size": 8, "key": jax.random.key(0), "rtol": 0.0, "max_batches": 3}

    def both(loss, params, data):
        batches = edges.batch_sharpness(loss, params, data, **own).mean
        return batches, edges.directional_sharpness(loss, params, data, update, learning_rate=LR)

    found = [
        jax.jit(both, static_argnums=0)(through(e), params, data) for e in (jnp.exp, guarded_exp)
    ]
    np.testing.assert_allclose(*found, rtol=1e-10)
