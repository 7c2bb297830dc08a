"""Peaks of memory, as the compiler plans them, beside the budget, at several widths."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxsharp.core import Budget
from jaxsharp.core.programs import subprograms
from jaxsharp.curvature import exact_ggn_traces, hessian
from jaxsharp.measures import MEASURES, Options, Trained
from jaxsharp.measures.neighbourhood import perturbed
from jaxsharp.networks import cross_entropy
from jaxsharp.networks.network import Network
from jaxsharp.training.epochs import evaluation
from jaxsharp.training.members import over_members
from tests.tinynets import mlp, tiny_dataset

# A gradient writes 20 KiB an example at least; a linearization keeps up to 40 MiB in all. A vector
# of parameters has 26 KiB.
MEMORY = Budget(2**22, 3 * 2**24, 0, vmapped=True)
EXAMPLES, INPUTS, HIDDEN, CLASSES = 4096, 16, 256, 10
IMAGES = jax.ShapeDtypeStruct((EXAMPLES, INPUTS), jnp.float32)
PARAMS = {
    "w1": jax.ShapeDtypeStruct((INPUTS, HIDDEN), jnp.float32),
    "w2": jax.ShapeDtypeStruct((HIDDEN, CLASSES), jnp.float32),
}
NUM_PARAMS = HIDDEN * (INPUTS + CLASSES)


def logits(params, images):
    return jnp.tanh(images @ params["w1"]) @ params["w2"]


NETWORK = Network(None, lambda p, stats, x, train: (logits(p, x), stats), None)


def product(params, labels, key, images, memory, recompute=None):
    loss = lambda p, batch: cross_entropy(logits(p, batch[0]), batch[1])  # noqa: E731
    options = {"recompute": recompute, "memory": memory, "check": False}
    return hessian(loss, params, (images, labels), **options)(params)


def traces(params, labels, key, images, memory):
    return exact_ggn_traces(lambda p, _, x: logits(p, x), params, {}, images, memory=memory)


def rises(params, labels, key, images, memory):
    static = (NETWORK, 16, True, False, None, None, memory)
    return perturbed(*static, params, {}, (images, labels), key, 1.0)[0]


def losses(params, labels, key, images, memory):
    return evaluation(NETWORK)(params, {}, (images, labels), memory)


# With the parts of the budget that each may fill, and the vectors of parameters that it takes.
WORKS = {
    "product, as fits": (product, ("chunk_bytes", "kept_bytes"), 2),
    "product, recomputed": (partial(product, recompute=True), ("chunk_bytes",), 2),
    "traces": (traces, ("chunk_bytes",), 2),
    "rises": (rises, ("chunk_bytes",), 30),  # eight perturbations at a time
    "losses": (losses, ("chunk_bytes",), 1),
}


def peak(work, width, memory):
    """Bytes that the program needs beside its arguments and results."""

    def rows(leaf):
        return jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype)

    labels = jax.ShapeDtypeStruct((EXAMPLES,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    members = jax.tree.map(rows, (PARAMS, labels, key))
    program = jax.jit(over_members(work, None, memory)).lower(members, IMAGES).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [False, True])
@pytest.mark.parametrize("name", WORKS)
def test_peaks_stay_under_the_budget_at_every_width(name, vmapped):
    """Of whole programs, whose parts were compiled for other widths before."""
    work, parts, vectors = WORKS[name]
    memory = replace(MEMORY, vmapped=vmapped)
    allowed = sum(getattr(memory, part) for part in parts)
    for width in (1, 4, 16, 64):
        own = (width if vmapped else 1) * vectors * 4 * NUM_PARAMS
        found = peak(work, width, memory)
        assert found <= allowed + own, width


@pytest.mark.slow
def test_one_member_may_keep_what_four_may_not():
    kept = [peak(product, width, MEMORY) > MEMORY.chunk_bytes for width in (1, 4)]
    assert kept == [True, False]


# Measures that look at no data.
OF_PARAMETERS = ("parameter_norm", "distance_from_initialization", "num_parameters")
# Loops over draws and columns shorter than those over chunks.
OPTIONS = Options(lpf_draws=4, subspace_size=4)


def turns(program):
    """The turns of the longest loop over chunks."""
    own = [eqn.params["length"] for eqn in program.eqns if eqn.primitive.name == "scan"]
    return max([1, *own, *(turns(inner.jaxpr) for inner in subprograms(program))])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MEASURES if name not in OF_PARAMETERS])
def test_the_budget_is_a_part_of_the_identity_of_a_measure(name):
    """Traced for 64 sharers after it was for one, a program takes the smaller chunks."""
    network, split = mlp(), tiny_dataset(num=64).train
    params, stats = network.init(jax.random.key(0))
    at, found = Trained(params, stats, params), []
    for memory in (MEMORY, MEMORY.divided(64), MEMORY.divided(1024), MEMORY):
        measured = partial(MEASURES[name].arrays, network, options=OPTIONS, memory=memory)
        program = jax.make_jaxpr(measured)(at, split, jax.random.key(0))
        found.append(turns(program.jaxpr))
    assert found[0] == found[3] < found[2]
    assert found[1] <= found[2]
