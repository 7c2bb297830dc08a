"""Digests of arrays and programs: alike for what computes the same, otherwise for what does not."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import fingerprints

X = jax.ShapeDtypeStruct((4, 3), jnp.float32)
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
of = partial(fingerprints.of_program)


def test_an_array_is_known_by_every_byte_its_shape_and_its_dtype():
    changed = IMAGES.copy()
    changed[1, 2, 3] ^= 1
    others = [changed, IMAGES.reshape(3, 2, 4), IMAGES.astype(np.int8), IMAGES[:1], IMAGES[::-1]]
    found = [fingerprints.of_array(each) for each in (IMAGES, *others)]
    assert len(set(found)) == len(found) and all(len(each) == 32 for each in found)
    for same in (np.asfortranarray(IMAGES), jnp.asarray(IMAGES), IMAGES[::-1][::-1]):
        assert fingerprints.of_array(same) == found[0]
    assert fingerprints.of_array(np.float32(1)) != fingerprints.of_array(np.float32([1]))
    empty = [fingerprints.of_array(np.empty(shape)) for shape in ((0,), (0, 3))]
    assert empty[0] != empty[1]
    low = jnp.ones(3, jnp.bfloat16)
    assert fingerprints.of_array(low) != fingerprints.of_array(low.view(jnp.uint16))
    keys = [fingerprints.of_array(jax.random.key(seed)) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def affine(table, x):
    return jnp.tanh(x @ table + 1.0)


def test_names_lines_and_wrapping_do_not_enter():
    table = np.arange(6.0, dtype=np.float32).reshape(3, 2)

    def another_name(y):
        """And another line of the source, and other variables."""
        shifted = y @ table + 1.0
        return jnp.tanh(shifted)

    assert of(partial(affine, table), X) == of(another_name, X)
    assert of(jax.jit(another_name), X) == of(jax.jit(partial(affine, table)), X)
    assert of(another_name, jnp.ones((4, 3))) == of(another_name, jnp.zeros((4, 3)))


TABLE = np.arange(9.0, dtype=np.float32).reshape(3, 3)
SECOND = TABLE.copy()
SECOND[1, 1] += 1e-3
inner = jax.jit(lambda x: jax.nn.relu(x))


def looped(bound, x):
    return jax.lax.fori_loop(0, bound, lambda i, y: y * 0.5, x)


@jax.custom_jvp
def straight(x):
    return jnp.round(x)


@jax.custom_jvp
def halved(x):
    return jnp.round(x)


straight.defjvp(lambda x, dx: (straight(*x), dx[0]))
halved.defjvp(lambda x, dx: (halved(*x), 0.5 * dx[0]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (jax.nn.relu, jax.nn.gelu),
        (jax.nn.gelu, partial(jax.nn.gelu, approximate=False)),
        (jnp.sin, jnp.cos),
        (lambda x: x * 0.5, lambda x: x * 0.50001),
        (lambda x: x - x.T.T[::-1], lambda x: x[::-1] - x),
        (lambda x: x @ TABLE, lambda x: x @ SECOND),
        (jax.jit(lambda x: inner(x) @ TABLE), jax.jit(lambda x: inner(x) @ SECOND)),
        (lambda x: (x @ TABLE) @ SECOND, lambda x: (x @ SECOND) @ TABLE),
        (partial(looped, 3), partial(looped, 4)),
        (lambda x: x.sum(0, keepdims=True), lambda x: x.sum(1, keepdims=True)),
        (lambda x: {"a": x, "b": x * 2}, lambda x: {"b": x, "c": x * 2}),
        (lambda x: x.astype(jnp.bfloat16) + 1, lambda x: x.astype(jnp.float16) + 1),
        (jax.grad(lambda x: straight(x).sum()), jax.grad(lambda x: halved(x).sum())),
        (
            lambda x: jnp.matmul(x, TABLE, precision="highest"),
            lambda x: jnp.matmul(x, TABLE, precision="default"),
        ),
        (
            lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
            lambda x: jax.lax.cond(x[0, 0] > 0, jnp.cos, jnp.sin, x),
        ),
        (
            lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
            lambda x: x + jax.random.normal(jax.random.key(1), x.shape),
        ),
    ],
)
def test_programs_that_compute_something_else_differ(one, other):
    assert of(one, X) == of(one, X)
    assert of(one, X) != of(other, X)


def test_shapes_and_dtypes_of_arguments_enter():
    assert of(jnp.sin, X) != of(jnp.sin, jax.ShapeDtypeStruct((4, 2), jnp.float32))
    assert of(jnp.sin, X) != of(jnp.sin, jax.ShapeDtypeStruct((4, 3), jnp.bfloat16))
    assert of(lambda t: t["a"], {"a": X}) != of(lambda t: t["b"], {"b": X})


ELSEWHERE = """
import jax
from jaxsharp import data, networks
from jaxsharp.runs import RunConfig, Settings
from jaxsharp.studies.origins import fingerprint
from jaxsharp.studies.workbench import workbench
print(len(jax.devices()))
settings = Settings(learning_rate=0.1, batch_size=50)
for model in ("small_mlp", "mlp_1"):
    bench = workbench(data.load("digits", train_size=100), model)
    print(fingerprint(RunConfig("digits", model, "adashift", "asam", 0, settings), bench).text)
"""


@pytest.mark.slow
def test_another_process_another_hash_seed_and_other_devices_give_the_same():
    texts = set()
    for seed, devices in (("0", 1), ("12345", 3)):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        env = {**os.environ, "PYTHONHASHSEED": seed, "XLA_FLAGS": flags}
        command = [sys.executable, "-c", ELSEWHERE]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        number, _, text = done.stdout.partition("\n")
        assert number == str(devices), done.stderr
        texts.add(text)
    assert len(texts) == 1 and text.count('"network"') == 2


def test_constants_of_programs_inside_of_operations_enter():
    """Of calls, branches and loops that close over a table, however JAX keeps it."""

    def called(table):
        return jax.jit(lambda x: jax.checkpoint(lambda y: jnp.sin(y @ table))(x))

    def branched(table):
        return lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ table, lambda y: y, x)

    def repeated(table):
        return lambda x: jax.lax.scan(lambda y, _: (y @ table, None), x, None, length=2)[0]

    for make in (called, branched, repeated):
        assert of(make(TABLE), X) == of(make(TABLE.copy()), X) != of(make(SECOND), X)
