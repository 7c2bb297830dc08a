"""Measures of the spectrum against dense Hessians, and their errors against the spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsharp.core import budget
from jaxsharp.curvature import StructureError
from jaxsharp.measures import MEASURES, Options, Trained, layer_traces
from jaxsharp.measures.spectrum import densities, eigenvalues, traces
from tests.references import dense_hessian
from tests.tinynets import generic_point, mlp, tiny_dataset

KEYS = 220
OPTIONS = Options(eigenvalue_tol=1e-8, shift=0.05)
RANDOM = {**traces.MEASURES, **densities.MEASURES}
RANDOM.pop("hessian_trace")
pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(scope="module")
def learned(double_precision):
    """A tiny network that has learned its data, and its dense Hessian, with saddles left."""
    network = mlp(widths=(5, 4), features=12)
    batch = tuple(jnp.asarray(x) for x in tiny_dataset(num=14, shape=(2, 3, 2)).train)
    params, stats = generic_point(network)
    gradient = jax.grad(network.frozen_loss(stats))

    @jax.jit
    def trained(params):
        def step(params, _):
            by = gradient(params, batch)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, by), None

        return jax.lax.scan(step, params, length=30)[0]

    at = Trained(trained(params), stats)
    hessian = dense_hessian(network.frozen_loss(stats), at.params, batch)
    return network, at, batch, np.asarray(hessian)


def exact_values(hessian, options=OPTIONS):
    """Every measure of the spectrum from all eigenvalues, as matrices where there is a matrix."""
    values, vectors = np.linalg.eigh(hessian)
    count, shift, size = options.eigenvalue_count, options.shift, len(values)
    positive = (vectors * np.maximum(values, 0)) @ vectors.T
    shares = np.abs(values) / np.abs(values).sum()
    shares = shares[shares > 0]
    return {
        "top_eigenvalue": values[-1],
        "top_eigenvalues_sum": values[-count:].sum(),
        "eigenvalue_ratio": values[-1] / values[-count],
        "smallest_eigenvalue": values[0],
        "hessian_trace": np.trace(hessian),
        "hutchinson_trace": np.trace(hessian),
        "frobenius_norm": np.linalg.norm(hessian),
        "soft_rank": np.trace(positive @ np.linalg.inv(positive + shift * np.eye(size))),
        "log_determinant": np.linalg.slogdet(np.eye(size) + positive / shift)[1],
        "effective_rank": np.exp(-np.sum(shares * np.log(shares))),
        "negative_share": -values[values < 0].sum() / np.abs(values).sum(),
    }


@pytest.mark.slow
def test_the_table_has_every_measure_of_the_spectrum(learned):
    want = exact_values(learned[3])
    assert list(want) == [*eigenvalues.MEASURES, *traces.MEASURES, *densities.MEASURES]
    assert set(want) <= set(MEASURES) and want["smallest_eigenvalue"] < 0


@pytest.fixture(scope="module")
def arrays_of(learned):
    """What a measure computes for several keys; once for measures that share it."""
    network, at, batch, _ = learned
    known = {}

    def arrays(name, options, keys):
        fn = MEASURES[name].arrays
        if fn not in known:

            @jax.jit
            def program(at, keys):
                one = lambda key: fn(network, at, batch, key, options, budget())  # noqa: E731
                return jax.lax.map(one, keys, batch_size=20)

            known[fn] = jax.device_get(program(at, keys))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], known[fn]) for i in range(len(keys))]

    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("name", [*eigenvalues.MEASURES, "hessian_trace"])
def test_what_is_not_random_is_that_of_the_dense_hessian(learned, arrays_of, name):
    network, at, batch, hessian = learned
    (arrays,) = arrays_of(name, OPTIONS, jax.random.split(jax.random.key(0), 1))
    found = MEASURES[name].record(network, at, batch, OPTIONS, arrays)
    want = exact_values(hessian)[name]
    assert abs(found.value - want) <= found.error + 1e-12 < 1e-6 * abs(want)
    assert found.finished and found.exact == (name == "hessian_trace") and found.examples == 14


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_a_standard_error_is_the_spread_over_keys(learned, arrays_of, name):
    network, at, batch, hessian = learned
    options = Options(shift=0.05, num_probes=80, density_probes=20, density_steps=45)
    rows = arrays_of(name, options, jax.random.split(jax.random.key(1), KEYS))
    records = [MEASURES[name].record(network, at, batch, options, row) for row in rows]
    want = exact_values(hessian, options)[name]
    values, errors = (np.array([getattr(r, f) for r in records]) for f in ("value", "error"))
    drawn, cost = (20, 20 * 45) if name in densities.MEASURES else (80, 80)
    assert all(r.finished and not r.exact for r in records)
    assert {(r.directions, r.cost) for r in records} == {(drawn, cost)}
    spread = values.std(ddof=1)
    assert 0.85 < np.sqrt(np.mean(errors**2)) / spread < 1.15
    covered = np.mean(np.abs(values - want) <= 1.96 * errors)
    assert 0.9 <= covered <= 0.98, (covered, values.mean(), want, spread)


@pytest.mark.parametrize("name", densities.MEASURES)
def test_functionals_of_all_eigenvalues_are_those_of_the_matrix(learned, name):
    """Rules that know every eigenvalue, each with the same weight, with steps to spare."""
    network, at, batch, hessian = learned
    size = len(hessian)
    nodes = np.stack([np.linalg.eigvalsh(hessian)] * 3)
    start = np.linalg.qr(np.c_[np.ones(size), np.eye(size)[:, 1:]])[0]
    tridiagonal = scipy.linalg.hessenberg(start.T @ (nodes[0][:, None] * start))
    entries = np.diag(tridiagonal), np.append(np.diag(tridiagonal, -1), 0)
    made_of = [np.stack([np.pad(x, (0, size // 2))] * 3) for x in entries]
    found = nodes, np.full(nodes.shape, 1 / size), 7, *made_of
    record = MEASURES[name].record(network, at, batch, OPTIONS, found)
    np.testing.assert_allclose(record.value, exact_values(hessian)[name], rtol=1e-9)
    assert record.error <= 1e-9 * record.value + 1e-15
    assert (record.cost, record.directions, record.finished) == (7, 3, True)


@pytest.mark.parametrize("name", densities.MEASURES)
def test_what_the_steps_do_not_resolve_is_in_the_error_and_not_finished(learned, name):
    """Forty of 600 eigenvalues, the others 0 as those of a network: in few steps, and in all."""
    spectrum = np.zeros(600)
    spectrum[:30], spectrum[-10:] = 1 / np.arange(1, 31) ** 2, -0.05 / np.arange(1, 11)
    at = Trained({"a": np.zeros(600)}, {})  # as many parameters
    options = Options(shift=1e-3)
    want = exact_values(np.diag(spectrum), options)[name]
    few, all_ = (
        densities.MEASURES[name].record(None, at, learned[2], options, found)
        for found in (lanczos(spectrum, steps) for steps in (12, 60))
    )
    assert not few.finished and all_.finished
    assert abs(few.value - want) < 2 * few.error and abs(all_.value - want) < 3 * all_.error
    assert few.error > 2 * all_.error, "twelve steps should not do"


def lanczos(spectrum, steps, num=20):
    """What `densities.rules` returns of a diagonal matrix."""
    diagonal, below = np.zeros((2, num, steps))
    for i, vector in enumerate(np.random.default_rng(0).normal(size=(num, len(spectrum)))):
        basis = np.zeros((steps + 1, len(spectrum)))
        basis[0] = vector / np.linalg.norm(vector)
        for j in range(steps):
            image = spectrum * basis[j]
            diagonal[i, j] = image @ basis[j]
            for _ in range(2):
                image = image - basis[: j + 1].T @ (basis[: j + 1] @ image)
            below[i, j] = np.linalg.norm(image)
            if below[i, j] < 1e-13:
                below[i, j] = 0
                break
            basis[j + 1] = image / below[i, j]
    off = [np.diag(b[:-1], 1) + np.diag(b[:-1], -1) for b in below]
    nodes, vectors = np.linalg.eigh([np.diag(d) + o for d, o in zip(diagonal, off, strict=True)])
    return nodes, vectors[:, 0] ** 2, steps * num, diagonal, below


def test_the_ratio_to_an_eigenvalue_that_is_lost_in_its_residual_is_not_finished(learned):
    network, at, batch, _ = learned
    record = MEASURES["eigenvalue_ratio"].record
    for last, finished in ((0.5, True), (0.005, False), (-0.5, False), (0.0, False)):
        found = eigenvalues.Found(
            np.array([2.0, last]), np.array([0.01, 0.01]), np.array([True, True]), 9
        )
        one = record(network, at, batch, OPTIONS, found)
        assert one.finished == finished
        if finished:
            np.testing.assert_allclose((one.value, one.error), (4, (0.01 + 4 * 0.01) / 0.49))


def test_the_error_of_a_sum_bounds_what_the_residuals_allow(learned):
    """Hoffman and Wielandt, on random bases of Ritz vectors."""
    rng = np.random.default_rng(0)
    spectrum = np.sort(rng.normal(size=30))[::-1]
    for size in (1e-3, 1e-2, 0.1):
        basis = np.linalg.qr(np.eye(30)[:, :5] + size * rng.normal(size=(30, 5)))[0]
        values, mixing = np.linalg.eigh(basis.T @ (spectrum[:, None] * basis))
        vectors = basis @ mixing
        residuals = np.linalg.norm(spectrum[:, None] * vectors - vectors * values, axis=0)
        found = eigenvalues.Found(values, residuals, np.ones(5, bool), 9)
        record = MEASURES["top_eigenvalues_sum"].record(*learned[:3], OPTIONS, found)
        off = abs(record.value - spectrum[:5].sum())
        assert 0 < off <= record.error < 2 * np.sqrt(5) * np.sqrt(2) * residuals.max()


@pytest.mark.slow
def test_traces_of_arrays_sum_to_that_of_the_hessian(learned):
    network, at, batch, hessian = learned
    found = layer_traces(network, at.params, at.stats, batch)
    sizes = [leaf.size for leaf in jax.tree.leaves(at.params)]
    want = [d.sum() for d in np.split(np.diag(hessian), np.cumsum(sizes)[:-1])]
    np.testing.assert_allclose(jax.tree.leaves(found), want, rtol=1e-9)
    tanh = network._replace(apply=lambda p, s, x, t: (jnp.tanh(network.apply(p, s, x, t)[0]), s))
    with pytest.raises(StructureError, match="tanh"):
        layer_traces(tanh, at.params, at.stats, batch)


@pytest.mark.slow
def test_a_sampled_start_meets_the_same_residual_over_all_examples(learned):
    network, at, batch, hessian = learned
    largest = np.linalg.eigvalsh(hessian)[-1]
    arguments = (network, *at[:2], batch, jax.random.key(3))
    random = eigenvalues.top_eigenvalue(*arguments, tol=1e-6)
    warm = eigenvalues.top_eigenvalue(*arguments, tol=1e-6, sample=0.5, starts=2)
    for found in (random, warm):
        assert found.converged and abs(found.value - largest) <= found.error <= 1e-6 * largest
    assert warm.confirmed
    for sample in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"sample is .* from 0 to below 1"):
            eigenvalues.top_eigenvalue(*arguments, sample=sample)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"eigenvalue_sample": 1.0}, "eigenvalue_sample is 1.0; it must be from 0 to below 1"),
        ({"eigenvalue_count": 1}, "eigenvalue_count is 1; it must be from 2"),
        ({"num_probes": 1}, "num_probes is 1; it must be from 2"),
        ({"density_probes": 1}, "density_probes is 1; it must be from 2"),
        ({"density_steps": 0}, "density_steps is 0; it must be from 1"),
        ({"shift": 0.0}, "shift is 0.0; it must be a finite number above 0"),
        ({"shift": float("nan")}, "shift is nan; it must be"),
    ],
)
def test_options_out_of_range_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        Options(**wrong).check()
