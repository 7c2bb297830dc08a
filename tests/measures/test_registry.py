"""Records of the measures, as tables have them: whether the error holds, flag and cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import budget
from jaxsharp.measures import MEASURES, Measure, Options, Record, Trained, catalogue
from jaxsharp.measures.registry import FAMILIES
from tests.tinynets import cnn, generic_point, mlp, tiny_dataset

# Of parameters alone, which are finite where the outputs are not.
OF_PARAMETERS = {"parameter_norm", "distance_from_initialization", "num_parameters"}
# One of those that share what they compute.
SHARED = set({measure.stream or name: name for name, measure in MEASURES.items()}.values())
OPTIONS = Options(num_perturbations=4, eigenvalue_starts=2)


def recorded(name, network, params, stats, batch, options=OPTIONS):
    measure = MEASURES[name]
    at = Trained(params, stats, jax.tree.map(lambda leaf: leaf / 2, params))
    arrays = measure.arrays(network, at, batch, jax.random.key(0), options, budget())
    return measure.record(network, at, batch, options, jax.device_get(arrays))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("minimum_sharpness", "minimum_sharpness_units", "top_eigenvalue"),
        *("random_perturbation", "random_perturbation_bn"),
    ],
)
def test_a_record_has_value_error_flag_and_cost(name):
    network, batch = cnn(), tiny_dataset(num=12).train
    params, stats = generic_point(network, dtype=jnp.float32)
    found = recorded(name, network, params, stats, batch)
    assert isinstance(found, Record) and found.finished is True
    assert np.isfinite(found.value) and 0 < found.error < abs(found.value) + 1
    outputs = network.apply(params, stats, batch.images, False)[0].shape[1]
    drawn = {"minimum_sharpness": 0, "minimum_sharpness_units": 0, "top_eigenvalue": 2}.get(name, 4)
    assert (found.examples, found.directions, found.exact) == (12, drawn, drawn == 0)
    if "minimum_sharpness" in name:
        assert found.cost == 12 * (1 + outputs)
    elif name == "top_eigenvalue":
        assert 2 * 2 <= found.cost <= 2 * 200
    else:
        assert found.cost == 4 + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minimum_sharpness", "minimum_sharpness_units"])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_error_of_minimum_sharpness_holds_for_its_float32_traces(scale, name):
    """At large logits too, where rounding weighs most; the duality gap alone is far below it."""
    network, batch = mlp(widths=(16, 8)), tiny_dataset(num=40).train
    params, stats = generic_point(network, dtype=jnp.float32)
    last = max(params)
    params = {**params, last: jax.tree.map(lambda a: scale * a, params[last])}
    single = recorded(name, network, params, stats, batch)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, stats, batch))
        exact = recorded(name, network, *double)
    off = abs(single.value - exact.value)
    assert exact.error < 1e-12 * exact.value < off < single.error < 1e-3 * single.value


def test_an_infimum_that_is_not_attained_is_not_finished():
    network, batch = mlp(), tiny_dataset(num=12).train
    params, stats = generic_point(network, dtype=jnp.float32)
    traces = jax.tree.map(lambda leaf: np.float32(1), params)
    dead = {**traces, "dense2": {**traces["dense2"], "kernel": np.float32(0)}}
    record = MEASURES["minimum_sharpness"].record
    at = Trained(params, stats)
    assert record(network, at, batch, OPTIONS, traces).finished
    # A scale above 1 for layer 1 and below for layer 2 lets the first layer's terms vanish.
    found = record(network, at, batch, OPTIONS, dead)
    assert not found.finished and found.error < 1e-3 * found.value


@pytest.mark.slow
@pytest.mark.parametrize("limit", [3, 200])
def test_an_eigenvalue_that_stops_at_the_product_limit_is_not_finished(monkeypatch, limit):
    monkeypatch.setattr("jaxsharp.measures.spectrum.eigenvalues.MAX_PRODUCTS", limit)
    network, batch = mlp(), tiny_dataset(num=12).train
    params, stats = generic_point(network, dtype=jnp.float32)
    options = Options(eigenvalue_tol=1e-4)
    found = recorded("top_eigenvalue", network, params, stats, batch, options)
    assert found.finished == (limit == 200)
    assert found.cost <= limit and (found.error <= 1e-4 * found.value) == found.finished


def test_options_that_no_measure_can_take_are_refused():
    with pytest.raises(ValueError, match="eigenvalue_starts is 0; it must be at least 1"):
        Options(eigenvalue_starts=0).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHARED - OF_PARAMETERS))
def test_a_measure_that_is_not_finite_says_why(name):
    network, batch = mlp(), tiny_dataset(num=12).train
    params, stats = generic_point(network, dtype=jnp.float32)
    huge = jax.tree.map(lambda leaf: leaf * 1e20, params)
    with pytest.raises(ValueError, match=r"not finite|finite and >= 0") as refused:
        recorded(name, network, huge, stats, batch)
    assert "\n" not in str(refused.value)


def test_measures_of_one_stream_share_what_is_computed(monkeypatch):
    """And a value does not depend on which others are taken."""
    computed = []

    def compiled(arrays, *rest):
        computed.append(arrays)
        return arrays(rest[-1])

    def drawn(key):
        return jax.random.normal(key)

    def made(factor, arrays=drawn, stream=""):
        record = lambda n, at, b, o, x: Record(factor * float(x), 0, True, 1, 1, 1, False)  # noqa: E731
        texts = ("", "", "", "", "", (), frozenset())
        return Measure(*texts, arrays, record, stream=stream)

    fakes = {"one": made(1, stream="s"), "two": made(2, stream="s"), "other": made(1)}
    for name, fake in fakes.items():
        monkeypatch.setitem(MEASURES, name, fake)
    monkeypatch.setattr(catalogue, "compiled", compiled)
    network, batch = mlp(), tiny_dataset(num=3).train
    arguments = (network, *generic_point(network, dtype=jnp.float32), batch)
    both = catalogue.measure(*arguments, list(fakes), key=jax.random.key(0))
    assert len(computed) == 2
    assert both["two"].value == 2 * both["one"].value != 2 * both["other"].value
    alone = catalogue.measure(*arguments, ["two"], key=jax.random.key(0))
    assert alone["two"] == both["two"] and len(computed) == 3


def test_measures_of_one_stream_compute_the_same():
    """The bound has the noise of pacbayes_sigma, and its losses are not taken anew."""
    of = {}
    for name, measure in ((n, m) for family in FAMILIES for n, m in family.MEASURES.items()):
        if measure.stream:
            of.setdefault(measure.stream, {})[name] = measure
    assert set(of) == {"top", "density", "pacbayes_sigma"}
    assert set(of["pacbayes_sigma"]) == {"pacbayes_sigma", "pacbayes_bound"}
    for each in of.values():
        assert len({measure.arrays for measure in each.values()}) == 1
