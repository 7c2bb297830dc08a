"""Measures of a loss over whole batches: of its mean over fixed batches, or refused."""

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp import measures, networks
from jaxsharp.measures import Options
from jaxsharp.measures.contract import UNDEFINED
from jaxsharp.measures.registry import MEASURES
from jaxsharp.networks.losses import Loss
from tests.contrastive import KINDS, NETWORK, SIZE, VIEWS, apply, dense, init, nt_xent, reference

USED = len(VIEWS) // SIZE * SIZE
KEY = jax.random.key(5)
OPTIONS = Options(
    **{"num_perturbations": 4, "lpf_draws": 4, "num_probes": 3, "density_probes": 2},
    **{"density_steps": 4, "ascent_steps": 2, "subspaces": 2, "subspace_size": 3},
    **{"eigenvalue_count": 2, "eigenvalue_tol": 1e-5, "group_size": 64, "rise": 0.01},
)
REFUSED = {
    **dict.fromkeys(
        ("minimum_sharpness", "minimum_sharpness_units", "hessian_trace", "relative_flatness"),
        "the second derivatives of loss nt_xent are not known",
    ),
    "relative_flatness_sum": "the second derivatives of loss nt_xent are not known",
    **dict.fromkeys(
        ("margin", "fisher_rao_norm", "pacbayes_bound"),
        "it is of single examples, and the loss nt_xent is over whole batches of 6",
    ),
    **dict.fromkeys(
        ("apgd_l2_adaptive_normalized", "apgd_linf_adaptive_normalized"),
        "logits are normalized for cross_entropy; the loss is nt_xent",
    ),
}
OF_PARAMETERS = ("parameter_norm", "distance_from_initialization", "num_parameters")


def looped(outputs, targets):
    """The mean over consecutive batches, in a loop, of all data as an example."""

    def of_one(outputs):
        starts = range(0, USED, SIZE)
        return sum(nt_xent(outputs[i : i + SIZE], None) for i in starts) / len(starts)

    return jax.vmap(of_one)(outputs).mean()


LOOPED = networks.Network(init, apply, loss=Loss("looped", looped))


def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


@cache
def descended():
    """Parameters, in float32, after gradient descent on all examples."""

    def step(params, _):
        slope = jax.grad(lambda p: nt_xent(apply(p, {}, VIEWS, True)[0], None))(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, slope), None

    return jax.lax.scan(step, init(jax.random.key(1))[0], None, 500)[0]


@pytest.fixture
def trained():
    params = descended()
    with jax.enable_x64(True):
        yield wide(params), wide(init(jax.random.key(2))[0]), (wide(VIEWS), jnp.asarray(KINDS))


def taken(network, trained, names, batch=None, options=OPTIONS):
    params, initial, whole = trained
    more = {"key": KEY, "options": options, "initial": initial}
    return measures.measure(network, params, {}, batch or whole, names, **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MEASURES if name not in REFUSED])
def test_a_measure_is_that_of_the_mean_over_batches(trained, name):
    found = taken(NETWORK, trained, [name])[name]
    one = jax.tree.map(lambda leaf: leaf[None], trained[2])
    want = taken(LOOPED, trained, [name], batch=one)[name]
    np.testing.assert_allclose(found.value, want.value, rtol=1e-6)
    np.testing.assert_allclose(found.error, want.error, rtol=1e-3, atol=1e-10)
    assert np.isfinite(found.value) and found.finished == want.finished
    assert found.examples == (0 if name in OF_PARAMETERS else USED)
    assert (found.cost, found.directions) == (want.cost, want.directions)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_defined_is_refused_in_one_line(trained, name):
    with pytest.warns(UserWarning) as told:
        found = taken(NETWORK, trained, [name])[name]
    (message,) = (str(each.message) for each in told)
    assert message.startswith(f"no {name}: {REFUSED[name]}") and "\n" not in message
    assert np.isnan(found.value) and not found.finished


def test_what_another_measure_computed_is_refused_too(trained, monkeypatch):
    """The bound, of which the noise is that of pacbayes_sigma, and may be there."""
    monkeypatch.setattr(measures.catalogue, "compiled", lambda *arguments: ())
    sigma = MEASURES["pacbayes_sigma"]._replace(record=lambda *arguments: UNDEFINED)
    monkeypatch.setitem(MEASURES, "pacbayes_sigma", sigma)
    with pytest.warns(UserWarning, match="no pacbayes_bound: it is of single examples"):
        found = taken(NETWORK, trained, ["pacbayes_sigma", "pacbayes_bound"])
    assert np.isnan(found["pacbayes_bound"].value)


@pytest.mark.slow
def test_eigenvalues_are_those_of_the_dense_hessian(trained):
    eigenvalues = np.linalg.eigvalsh(dense(trained[0], *trained[2])[1])
    table = taken(NETWORK, trained, ["top_eigenvalue", "smallest_eigenvalue"])
    for name, at in (("top_eigenvalue", -1), ("smallest_eigenvalue", 0)):
        np.testing.assert_allclose(table[name].value, eigenvalues[at], rtol=1e-6)


@pytest.mark.slow
def test_directions_that_see_a_sample_of_the_batches_find_the_mean_too(trained, monkeypatch):
    """Three of six batches for each direction: the mean over all of them, to its error."""
    monkeypatch.setattr("jaxsharp.measures.neighbourhood.sampling.BLOCK", 3)
    sampled = Options(measure_rtol=0.01, lpf_sigma=0.3)
    many = Options(lpf_draws=1000, lpf_sigma=0.3)
    found, want = (
        taken(NETWORK, trained, ["lpf"], options=each)["lpf"] for each in (sampled, many)
    )
    assert found.finished and found.examples == USED
    assert abs(found.value - want.value) < 5 * np.hypot(found.error, want.error)


@pytest.mark.slow
def test_groups_are_whole_batches(trained):
    name = "sam_sharpness"
    found = taken(NETWORK, trained, [name], options=Options(group_size=2 * SIZE))[name]
    assert found.examples == USED and found.error > 0  # three groups of two batches
    few = Options(group_size=2 * SIZE, worst_examples=4 * SIZE)
    assert taken(NETWORK, trained, [name], options=few)[name].examples == 4 * SIZE
    asked = Options(group_size=2 * SIZE, measure_rtol=0.1)
    anew = taken(NETWORK, trained, [name], options=asked)[name]
    assert anew.finished and anew.examples == USED and anew.directions >= 30
    assert abs(anew.value - found.value) < 5 * np.hypot(anew.error, found.error)
    with pytest.warns(UserWarning, match="group_size is 9; of the loss nt_xent it must be a mult"):
        taken(NETWORK, trained, [name], options=Options(group_size=9))


def loss_of_batches(network, params, stats, batch, key):
    """A measure of the user's own, of the network and data that measures see."""
    return network.frozen_loss(stats)(params, batch)


def test_an_own_measure_has_the_batches_as_examples(trained):
    found = taken(NETWORK, trained, [loss_of_batches])["loss_of_batches"]
    starts = range(0, USED, SIZE)
    want = np.mean([reference(trained[0], VIEWS[i : i + SIZE]) for i in starts])
    np.testing.assert_allclose(found.value, want, rtol=1e-12)
    assert found.examples == USED


@pytest.mark.slow
def test_public_functions_refuse_examples_that_are_no_batches(trained):
    params, _, batch = trained
    with pytest.raises(ValueError, match=r"take networks\.in_batches"):
        measures.random_perturbation(NETWORK, params, {}, batch, KEY)
    network, batches = networks.in_batches(NETWORK, batch)
    alone = measures.random_perturbation(network, params, {}, batches, KEY, num_perturbations=4)
    assert np.isfinite(alone.value) and alone.error > 0


WRONG = {
    "over whole batches of 64 examples, and the data have 41": networks.whole_batch(nt_xent, 64),
    "is a mean over examples": networks.whole_batch(lambda f, y: jnp.square(f).mean(), SIZE),
    "declare it over whole batches": nt_xent,
}


@pytest.mark.slow
@pytest.mark.parametrize("message", WRONG)
def test_wrong_losses_are_refused_before_anything_compiles(message):
    network, params = networks.Network(init, apply), init(KEY)[0]
    with warnings.catch_warnings(), pytest.raises(ValueError) as refused:
        warnings.simplefilter("error")
        measures.measure(
            network, params, {}, (VIEWS, KINDS), ["gradient_norm"], key=KEY, loss=WRONG[message]
        )
    assert message in str(refused.value) and "\n" not in str(refused.value)
