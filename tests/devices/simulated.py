"""8 simulated devices for the scripts of this folder, in one process or as two with 4 each."""

import jax
import numpy as np


def make_devices(address=None, index=None):
    """To be called before anything is computed; with the address and the index of one of two."""
    num_processes = 1 if address is None else 2
    jax.config.update("jax_num_cpu_devices", 8 // num_processes)
    jax.config.update("jax_platforms", "cpu")
    if num_processes > 1:
        jax.distributed.initialize(address, num_processes=2, process_id=int(index))
    assert len(jax.devices()) == 8


def difference(a, b):
    """Return the largest difference between two trees, relative to the size of its leaf."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(np.max(np.abs(x - y)) / np.max(np.abs(x)) for x, y in pairs)
