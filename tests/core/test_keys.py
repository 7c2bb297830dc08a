"""No two purposes draw the same random numbers, in one function or in two with one key."""

import ast
import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl, threefry_prng_impl

from jaxsharp import curvature, measures
from jaxsharp.core.keys import stream
from jaxsharp.networks.network import Network
from tests.test_layout import MODULES

DRAWN = []
THREEFRY = threefry_prng_impl


def _bits(key, width, shape, **options):
    jax.debug.callback(lambda k: DRAWN.append(tuple(np.asarray(k).tolist())), key)
    return THREEFRY.random_bits(key, width, shape, **options)


RECORDING = define_prng_impl(
    key_shape=(2,),
    seed=THREEFRY.seed,
    split=THREEFRY.split,
    random_bits=_bits,
    fold_in=THREEFRY.fold_in,
    name="recording",
    tag="rec",
)
LIKE = {"a": jnp.ones(3), "b": jnp.ones(4)}
BATCH = jnp.arange(6.0).reshape(3, 2), jnp.array([0, 1, 1])
PARAMS = {"w": jnp.array([[0.3, -0.2], [0.1, 0.4]]), "c": jnp.array([0.1, 0.2])}


def low_rank(v):
    """Of rank one, so that Lanczos breaks down and goes on with fresh vectors."""
    total = jnp.sum(v["a"]) + jnp.sum(v["b"])
    return jax.tree.map(lambda x: total * jnp.ones_like(x), v)


def apply(params, batch):
    return batch[0] @ params["w"] + params["c"]


def sampled(likelihood):
    def draw(key):
        curvature.monte_carlo_fisher(apply, likelihood, PARAMS, BATCH, key=key)(PARAMS)

    return draw


NETWORK = Network(None, lambda p, stats, x, train: (apply(p, (x,)), stats), None)
MEASURED = (NETWORK, PARAMS, {}, BATCH)
PAIRS = {"k": 2, "max_products": 8}
FUNCTIONS = {
    "top_eigenpairs": lambda key: curvature.top_eigenpairs(low_rank, LIKE, key=key, **PAIRS),
    "bottom_eigenpairs": lambda key: curvature.bottom_eigenpairs(low_rank, LIKE, key=key, **PAIRS),
    "extreme_eigenpairs": lambda key: curvature.extreme_eigenpairs(
        low_rank, LIKE, key=key, num_top=1, num_bottom=1, max_products=8
    ),
    "spectral_density": lambda key: curvature.spectral_density(
        low_rank, LIKE, key=key, num_probes=3, num_steps=3
    ),
    "hutchinson": lambda key: curvature.hutchinson(low_rank, LIKE, key=key, max_products=16),
    "diagonal": lambda key: curvature.diagonal(low_rank, LIKE, key=key, max_products=16),
    "frobenius_norm": lambda key: curvature.frobenius_norm(
        low_rank, LIKE, key=key, max_products=16
    ),
    "hutchpp": lambda key: curvature.hutchpp(
        low_rank, LIKE, key=key, sketch_size=3, max_products=20
    ),
    "xtrace": lambda key: curvature.xtrace(low_rank, LIKE, key=key, max_products=8),
    "monte_carlo_fisher": sampled(curvature.categorical),
    "random_perturbation": lambda key: measures.random_perturbation(
        *MEASURED, key, num_perturbations=4, antithetic=False
    ),
    "top_eigenvalue": lambda key: measures.top_eigenvalue(*MEASURED, key),
    "categorical": lambda key: curvature.categorical.sample(key, jnp.ones(3)),
    "bernoulli": lambda key: curvature.bernoulli.sample(key, jnp.ones(3)),
    "gaussian": lambda key: curvature.gaussian.sample(key, jnp.ones(3)),
    "init and split by the caller": lambda key: [
        jax.random.normal(k, (2,)) for k in (*jax.random.split(key, 20), key)
    ],
}


@pytest.fixture(scope="module")
def drawn():
    """The keys that each function draws from, given one and the same."""
    found = {}
    for name, function in FUNCTIONS.items():
        DRAWN.clear()
        jax.block_until_ready(function(jax.random.key(3, impl=RECORDING)))
        jax.effects_barrier()
        found[name] = list(DRAWN)
    return found


@pytest.mark.slow
def test_no_two_functions_draw_from_the_same_key(drawn):
    assert all(drawn.values())
    for one, other in itertools.combinations(drawn, 2):
        assert not set(drawn[one]) & set(drawn[other]), (one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_two_purposes_of_a_function_draw_from_the_same_key(drawn, name):
    if name == "monte_carlo_fisher":  # draws again in every product, one key an example
        assert len(set(drawn[name])) == len(BATCH[1])
    else:
        assert len(set(drawn[name])) == len(drawn[name])


def test_purposes_are_named_once_and_their_checksums_are_no_counts():
    names = [
        call.args[1].value
        for path in MODULES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "stream"
        and isinstance(call.args[1], ast.Constant)
    ]
    assert len(names) == len(set(names)) > 15
    sums = {zlib.crc32(name.encode()) for name in names}
    assert len(sums) == len(names) and min(sums) > 2**20


def test_a_stream_is_fixed_whatever_the_machine():
    expected = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"hutchinson"))
    assert stream(jax.random.key(0), "hutchinson") == expected
    assert stream(jax.random.key(0), "diagonal") != expected


@pytest.mark.parametrize(
    ("key", "given"),
    [
        (0, "0"),
        (None, "None"),
        (np.arange(3), "of shape (3,) and type int64"),
        (np.float32(1), "of shape () and type float32"),
        (jax.random.split(jax.random.key(0), 2), "of shape (2,) and type key<fry>"),
        (jax.random.split(jax.random.PRNGKey(0), 3), "of shape (3, 2) and type uint32"),
    ],
)
def test_what_is_not_one_key_is_refused_in_one_line(key, given):
    with pytest.raises(ValueError, match="must be one random key") as refused:
        stream(key, "a")
    assert (
        str(refused.value) == f"key is {given}; it must be one random key, as of jax.random.key(0)"
    )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_are_keys_under_transformations(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 4)
    found = jax.vmap(lambda key: jax.random.key_data(stream(key, "a")))(keys)
    want = [jax.random.key_data(stream(key, "a")) for key in keys]
    np.testing.assert_array_equal(found, want)


def test_raw_keys_are_keys():
    raw, typed = (of(3) for of in (jax.random.PRNGKey, jax.random.key))
    found = jax.jit(stream, static_argnums=1)(raw, "a")
    np.testing.assert_array_equal(found, jax.random.key_data(stream(typed, "a")))
