"""Run by `test_devices`: the same calls on one device and on arrays placed over a mesh.

    check.py                            8 devices in this process
    check.py ADDRESS INDEX              process INDEX of 2, with 4 devices each

Prints one line for each quantity: its name and the largest difference, relative to its size.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsharp import curvature
from jaxsharp.curvature import categorical
from tests.devices.simulated import difference, make_devices

make_devices(*sys.argv[1:])
jax.config.update("jax_enable_x64", True)

SIZES = (8, 16, 16, 4)
MESH = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "model"))
KEY = jax.random.key(0)


def model():
    """Parameters and data as NumPy arrays, the same in every process."""
    rng = np.random.default_rng(0)
    params = [
        {"w": rng.normal(size=(i, o)) / np.sqrt(i), "b": 0.1 * rng.normal(size=o)}
        for i, o in itertools.pairwise(SIZES)
    ]
    return params, (rng.normal(size=(48, SIZES[0])), rng.integers(0, SIZES[-1], 48))


def network(params, stats, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def apply(params, batch):
    return jax.vmap(lambda x: network(params, {}, x))(batch[0])


def loss(params, batch):
    return -jnp.mean(jax.vmap(categorical.log_prob)(apply(params, batch), batch[1]))


def quantities(params, batch):
    """What works on parameters and a batch, by name; the longer list for a single process."""
    matvec = curvature.hessian(loss, params, batch, chunk_size=16)
    pairs = curvature.extreme_eigenpairs(matvec, params, key=KEY, num_top=3, num_bottom=1, tol=1e-7)
    found = {
        "hessian in chunks": matvec(params),
        "eigenvalues": [pairs.top.values, pairs.bottom.values],
        "exact traces": curvature.exact_traces(network, params, {}, batch[0]),
    }
    if jax.process_count() > 1:
        return found
    unequal = curvature.hessian(loss, params, batch, chunk_size=20, recompute=True)
    sampled = curvature.monte_carlo_fisher(apply, categorical, params, batch, key=KEY)
    density = curvature.spectral_density(matvec, params, key=KEY, num_probes=2, num_steps=10)
    return found | {
        "hessian in unequal chunks": unequal(params),
        "sampled fisher": sampled(params),
        "empirical fisher": curvature.empirical_fisher(loss, params, batch)(params),
        "moments": [density.moment(1).mean, density.moment(2).mean],
        "trace": curvature.hutchinson(matvec, params, key=KEY, max_products=20)[:2],
    }


def placed(params, batch, data_spec, model_spec):
    """Place the arrays; nothing else tells the library of devices."""

    def put(array, spec):
        sharding = NamedSharding(MESH, spec)
        return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])

    split = jax.tree.map(lambda a: put(a, P(*([None] * (a.ndim - 1)), model_spec)), params)
    return split, jax.tree.map(lambda a: put(a, P(data_spec)), batch)


def everywhere(tree):
    """Return the values as NumPy arrays, whole in every process."""
    copy = jax.jit(lambda x: x, out_shardings=NamedSharding(MESH, P()))
    return jax.tree.map(lambda x: np.asarray(copy(x).addressable_data(0)), tree)


def main():
    """Compare with one device."""
    params, batch = model()
    local = jax.local_devices()[0]
    here = jax.device_get(jax.jit(quantities)(*jax.device_put((params, batch), local)))
    arrays = placed(params, batch, "data", "model")
    assert len(arrays[1][0].sharding.device_set) == 8
    there = everywhere(jax.jit(quantities)(*arrays))
    for name, value in here.items():
        print(f"{name}\t{difference(value, there[name]):.2e}")
    everything = placed(params, batch, ("data", "model"), None)
    product = everywhere(curvature.hessian(loss, *everything)(arrays[0]))
    print(f"data alone, outside jit\t{difference(here['hessian in chunks'], product):.2e}")


main()
