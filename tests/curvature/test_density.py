"""Stochastic Lanczos quadrature on operators whose spectrum is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.curvature import Operator, ggn, spectral_density
from jaxsharp.curvature.density import with_node_at_zero
from jaxsharp.curvature.krylov import random_unit
from tests.cases import make_case
from tests.references import dense_ggn, symmetric_matrix

pytestmark = pytest.mark.usefixtures("double_precision")

SIZE = 60
rng = np.random.default_rng(1)
spectra = {
    "network_like": np.r_[[8.0, 5, 4], rng.exponential(0.3, 30), rng.normal(0, 0.01, 27)],
    "indefinite": rng.uniform(-1, 1, SIZE),
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "rank_1": np.r_[3.0, np.zeros(SIZE - 1)],
    "two_values": np.repeat([2.0, -1.0], SIZE // 2),
    "condition_1e12": np.logspace(-12, 0, SIZE),
    "all_negative": -np.logspace(-1, 1, SIZE),
}


@partial(jax.jit, static_argnames=("num_probes", "num_steps", "basis_size", "vmapped"))
def solve(matrix, key=0, num_probes=20, num_steps=15, basis_size=None, vmapped=1):
    return spectral_density(
        lambda vector: matrix @ vector,
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
        key=jax.random.key(key),
        num_probes=num_probes,
        num_steps=num_steps,
        basis_size=basis_size,
        vmapped=vmapped,
    )


def probes(num_probes, key=0):
    """The probes, read off the program: what it does to the identity without steps."""
    seen = []
    product = lambda v: (seen.append(np.asarray(v)), v)[1]  # noqa: E731
    operator = Operator(product, "test", on_host=True)
    spectral_density(
        operator, jnp.zeros(SIZE), key=jax.random.key(key), num_probes=num_probes, num_steps=1
    )
    return np.array(seen)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
@pytest.mark.parametrize("name", spectra)
def test_rules_are_exact_for_polynomials(name, scale):
    """Gauss: sum_j w_j theta_j^p = u^T H^p u below twice the steps (pitfall 15)."""
    matrix = symmetric_matrix(scale * spectra[name])
    density = solve(matrix, num_probes=3)
    assert np.all(density.weights >= 0)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-13)
    size = scale * max(1.0, np.abs(spectra[name]).max())
    for u, nodes, weights in zip(probes(3), density.nodes, density.weights, strict=True):
        power = u
        for p in range(1, 30):
            power = matrix @ power
            np.testing.assert_allclose(
                weights @ nodes**p, u @ power, rtol=1e-10, atol=1e-12 * size**p
            )


@pytest.mark.slow
def test_probes_are_uniform_on_the_sphere():
    keys = jax.random.split(jax.random.key(0), 4000)
    u = jax.vmap(lambda key: random_unit(key, jnp.zeros(SIZE)))(keys)
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, rtol=1e-14)
    second = u.T @ u / len(u) * SIZE
    # 4000 squares of mean 1 and variance 2: standard error 0.022, products of two 0.016.
    np.testing.assert_allclose(second, np.eye(SIZE), atol=5 * 0.023)


@pytest.mark.parametrize("name", spectra)
def test_moments_are_those_of_the_spectrum_within_their_errors(name):
    truth = spectra[name]
    density = solve(symmetric_matrix(truth))
    assert density.dimension == SIZE
    for power in (1, 2, 3):
        mean, stderr = density.moment(power)
        rounding = 1e-12 * max(1.0, np.abs(truth).max()) ** power
        assert abs(mean - np.mean(truth**power)) <= 5 * stderr + rounding


@pytest.mark.slow
def test_standard_error_is_the_spread_over_seeds():
    """Over 200 seeds a standard deviation is known to 5 %, the mean of the errors to about 2 %."""
    matrix = symmetric_matrix(spectra["network_like"])
    moments = jax.vmap(lambda key: solve(matrix, key, num_probes=10, num_steps=3).moment(1))
    mean, stderr = moments(jnp.arange(200))
    assert np.std(mean, ddof=1) == pytest.approx(np.sqrt(np.mean(stderr**2)), rel=0.25)
    truth = np.mean(spectra["network_like"])
    assert abs(np.mean(mean) - truth) < 5 * np.std(mean, ddof=1) / np.sqrt(200)
    # With 10 probes the quotient has a t distribution: beyond 5, 1 in 1,300.
    assert np.sum(np.abs(mean - truth) > 5 * stderr) <= 2


def test_standard_error_is_that_of_the_mean_over_the_probes():
    found = solve(symmetric_matrix(spectra["indefinite"]), num_probes=3)
    of_probes = np.sum(np.asarray(found.weights * found.nodes), axis=1)
    mean, stderr = found.moment(1)
    np.testing.assert_allclose(mean, np.mean(of_probes), rtol=1e-12)
    np.testing.assert_allclose(stderr, np.std(of_probes, ddof=1) / np.sqrt(3), rtol=1e-12)


@pytest.mark.slow
def test_full_depth_gives_the_eigenvalues_and_their_distribution():
    truth = np.sort(spectra["indefinite"])
    density = solve(symmetric_matrix(truth), num_steps=SIZE)
    np.testing.assert_allclose(density.nodes, np.tile(truth, (20, 1)), atol=1e-12)
    points = jnp.asarray([-2.0, -0.5, 0.0, 0.5, 2.0])
    mean, stderr = density.cumulative(points)
    shares = np.mean(truth[:, None] <= points, axis=0)
    np.testing.assert_allclose(mean[jnp.array([0, 4])], [0, 1], atol=1e-13)
    assert np.all(np.abs(mean - shares) <= 5 * stderr + 1e-12)
    assert np.all(stderr[1:4] > 0.005)


@pytest.mark.slow
def test_cumulative_counts_a_node_half_at_itself():
    density = solve(symmetric_matrix(spectra["two_values"]), num_steps=5)
    mean, _ = density.cumulative(jnp.asarray([0.5]))
    at_node = jax.tree.map(lambda x: x, density)._replace(nodes=jnp.sign(density.nodes))
    half, _ = at_node.cumulative(jnp.asarray([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(half, [mean[0] / 2, mean[0], (1 + mean[0]) / 2], atol=1e-12)


@pytest.mark.slow
def test_smoothed_density_is_a_mixture_of_normal_distributions():
    density = solve(symmetric_matrix(spectra["identity"]))
    points = jnp.linspace(-2, 3, 2001)
    mean, stderr = density.smoothed(points, width=0.1)
    expected = np.exp(-(((points - 1) / 0.1) ** 2) / 2) / (0.1 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(mean, expected, atol=1e-9)
    np.testing.assert_allclose(stderr, 0, atol=1e-9)
    mixed, _ = solve(symmetric_matrix(spectra["indefinite"])).smoothed(points, width=0.05)
    below = np.trapezoid(mixed, points)
    share, _ = solve(symmetric_matrix(spectra["indefinite"])).cumulative(points[:1])
    assert below == pytest.approx(1 - float(share[0]), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network_like", "rank_1", "indefinite"])
def test_bounded_memory_moves_the_distribution_little(name):
    """Three of forty vectors kept: copies of eigenvalues appear, their shares stay."""
    matrix = symmetric_matrix(spectra[name])
    full, tight = solve(matrix, num_steps=40), solve(matrix, num_steps=40, basis_size=3)
    np.testing.assert_allclose(tight.weights.sum(1), 1, rtol=1e-12)
    points = jnp.linspace(-1.5, 9, 50)
    np.testing.assert_allclose(
        tight.cumulative(points).mean, full.cumulative(points).mean, atol=0.05
    )
    for power in (1, 2):
        np.testing.assert_allclose(tight.moment(power).mean, full.moment(power).mean, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
@pytest.mark.parametrize("name", spectra)
def test_rules_with_a_node_at_zero_are_exact_to_twice_the_steps(name, scale):
    matrix = symmetric_matrix(scale * spectra[name])
    density = solve(matrix, num_probes=3, num_steps=6)
    nodes, weights = with_node_at_zero(density.diagonal, density.below)
    assert nodes.shape == weights.shape == (3, 7) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    assert np.abs(nodes).min(1).max() <= 1e-12 * scale * np.abs(spectra[name]).max()
    for u, rule in zip(probes(3), zip(nodes, weights, strict=True), strict=True):
        image = u
        for power in range(1, 13):
            image = matrix @ image
            size = (scale * np.abs(spectra[name]).max()) ** power
            found = np.sum(rule[1] * rule[0] ** power)
            np.testing.assert_allclose(found, u @ image, rtol=1e-8, atol=1e-9 * size)


@pytest.mark.slow
def test_rules_with_and_without_a_node_at_zero_bound_from_both_sides():
    matrix = symmetric_matrix(spectra["condition_1e12"])
    vectors = probes(4)
    values, basis = np.linalg.eigh(matrix)
    want = np.sum((vectors @ basis) ** 2 * np.log1p(values / 1e-3), axis=1)
    for steps in (3, 6, 9):
        density = solve(matrix, num_probes=4, num_steps=steps)
        nodes, weights = with_node_at_zero(density.diagonal, density.below)
        low = np.sum(weights * np.log1p(np.maximum(nodes, 0) / 1e-3), axis=1)
        high = np.sum(density.weights * np.log1p(density.nodes / 1e-3), axis=1)
        assert (low < want).all() and (want < high).all()


@pytest.mark.slow
def test_memory_is_bounded_by_the_basis_size():
    def bytes_of(basis_size):
        matvec = lambda v: 2 * v  # noqa: E731
        options = {"num_probes": 2, "num_steps": 50, "basis_size": basis_size}
        like = jax.ShapeDtypeStruct((10_000,), jnp.float64)
        run = jax.jit(lambda key: spectral_density(matvec, like, key=key, **options))
        return run.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(None) > 50 * 80_000
    assert bytes_of(4) < 25 * 80_000


@pytest.mark.slow
def test_probes_at_a_time_and_the_host_do_not_matter():
    matrix = symmetric_matrix(spectra["network_like"])
    one, four = solve(matrix, num_probes=5), solve(matrix, num_probes=5, vmapped=4)
    operator = Operator(lambda v: jnp.asarray(matrix) @ v, "test", on_host=True)
    options = {"key": jax.random.key(0), "num_probes": 5, "num_steps": 15}
    host = spectral_density(operator, jnp.zeros(SIZE), **options)
    for other in (four, host):
        for power in (1, 2, 5):
            np.testing.assert_allclose(
                other.moment(power), one.moment(power), rtol=1e-9, atol=1e-12
            )
        assert other.num_products == one.num_products == 5 * 15


def test_early_end_saves_products():
    assert solve(symmetric_matrix(spectra["identity"])).num_products == 20
    assert solve(symmetric_matrix(spectra["two_values"])).num_products == 40


@pytest.mark.slow
def test_gauss_newton_matrix_of_a_network():
    case = make_case("cnn")
    dense = dense_ggn(case.apply, case.output_loss, case.params, case.batch)
    matvec = ggn(case.apply, case.output_loss, case.params, case.batch)
    density = spectral_density(matvec, case.params, key=jax.random.key(0), num_steps=20)
    mean, stderr = density.moment(1)
    assert abs(mean - jnp.trace(dense) / len(dense)) < 5 * stderr
    assert density.nodes.max() == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-10)


@pytest.mark.slow
def test_nan_shows_and_ends_a_probe_at_once():
    density = solve(np.full((SIZE, SIZE), np.nan), num_probes=2)
    assert np.all(np.isnan(density.moment(1).mean))
    assert density.num_products == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_probes", 1, "num_probes is 1"),
        ("num_steps", 0, "num_steps is 0"),
        ("basis_size", 1, "basis_size is 1"),
        ("vmapped", 0, "vmapped is 0"),
    ],
)
def test_bad_arguments_give_one_line(option, value, message):
    with pytest.raises(ValueError, match=message) as error:
        solve(np.eye(SIZE), **{option: value})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="int32"):
        spectral_density(lambda v: v, jnp.zeros(3, jnp.int32), key=jax.random.key(0))
    with pytest.raises(ValueError, match="width is 0"):
        solve(np.eye(SIZE)).smoothed(jnp.zeros(1), 0.0)
