"""Records of the measures of the room in single precision, and of several runs at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import budget
from jaxsharp.measures import Options, Trained
from jaxsharp.measures.neighbourhood import MEASURES
from tests.tinynets import generic_point, mlp, tiny_dataset

OPTIONS = Options(num_perturbations=4, eigenvalue_starts=2)
STEPS = OPTIONS.ascent_steps + 1
COSTS = {
    "random_perturbation": 5,
    "study_b_sharpness": 50,
    "lpf": 101,
    "sam_sharpness": 2,
    "pgd_l2": STEPS,
    "apgd_linf_adaptive": STEPS,
    "keskar_sharpness": STEPS,
    "keskar_subspace_sharpness": 5 * STEPS,
}
VMAPPED = ["lpf", "apgd_l2_adaptive", "keskar_subspace_sharpness", "pacbayes_bound"]


@pytest.fixture(scope="module")
def setting():
    network, batch = mlp(), tiny_dataset(num=12).train
    params, stats = generic_point(network, dtype=jnp.float32)
    return network, Trained(params, stats, jax.tree.map(lambda leaf: leaf / 2, params)), batch


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURES)
def test_a_record_is_finite_counted_and_fixed_by_its_key(setting, name):
    network, at, batch = setting
    measure = MEASURES[name]
    both = [
        measure.arrays(network, at, batch, jax.random.key(0), OPTIONS, budget()) for _ in range(2)
    ]
    found, again = (
        measure.record(network, at, batch, OPTIONS, jax.device_get(arrays)) for arrays in both
    )
    assert found == again and found.finished is True
    assert np.isfinite(found.value) and found.value > 0 and 0 <= found.error < found.value
    assert found.examples == 12 and found.cost >= 2 and found.directions >= 1
    assert found.cost == COSTS.get(name, found.cost)
    assert found.exact == (name == "epsilon_sharpness")
    assert set(measure.options) <= set(vars(OPTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("name", VMAPPED)
def test_a_measure_of_several_runs_is_that_of_each(setting, name):
    network, at, batch = setting
    measure, keys = MEASURES[name], jax.random.split(jax.random.key(1), 2)
    both = jax.tree.map(lambda a: jnp.stack([a, 1.2 * a]), at)

    def arrays(at, key):
        return measure.arrays(network, at, batch, key, OPTIONS, budget())

    together = jax.device_get(jax.jit(jax.vmap(arrays))(both, keys))
    for i in range(2):
        one, key = jax.tree.map(lambda a, i=i: a[i], both), keys[i]
        own = jax.tree.map(lambda a, i=i: a[i], together)
        alone = measure.record(network, one, batch, OPTIONS, jax.device_get(arrays(one, key)))
        found = measure.record(network, one, batch, OPTIONS, own)
        np.testing.assert_allclose(found.value, alone.value, rtol=2e-3)
