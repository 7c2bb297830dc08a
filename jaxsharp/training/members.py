"""Members of one program: runs that are stacked along a leading axis and spread over devices.

On an accelerator the members of a device are vmapped, and divide its memory (`core.Budget`). On the
CPU they follow each other, and each core may be a device (`cores_as_devices`): members side by side
use two cores better than the operations of one member do. What a member computes does not depend on
which others are there; at another width or number of devices it is the same to rounding.
"""

import os
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxsharp.core.memory import Budget, budget

MEMBERS, EXAMPLES = "members", "examples"
# Wider than this a program was never faster, and its compilation and its losses only grow.
MAX_WIDTH = 256


def cores_as_devices() -> None:
    """Make every core a device of its own where JAX computes on the CPU.

    To be called before JAX is used. Leaves alone what XLA_FLAGS or the configuration of JAX says.
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said and jax.config.jax_num_cpu_devices == -1:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def leave(code: int) -> NoReturn:
    """End this process after an error; of several, without the wait for the others.

    They wait for it in an operation of the devices or at a barrier, and fail there in their turn.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def member_mesh(width: int, devices_per_member: int = 1) -> Mesh:
    """Mesh of (members, examples): `devices_per_member` devices share the batch of a member.

    On one host as many devices as divide the width; several hosts take part with all of theirs.
    Raises ValueError where the devices do not come in such groups, or the width not in theirs.
    """
    devices = jax.devices()
    if devices_per_member < 1 or len(devices) % devices_per_member:
        raise ValueError(
            f"devices_per_member is {devices_per_member}; it must divide the {len(devices)} devices"
        )
    groups = len(devices) // devices_per_member
    if jax.process_count() == 1:
        groups = max(g for g in range(1, groups + 1) if width % g == 0)
    elif width % groups:
        raise ValueError(f"width is {width}; with several processes a multiple of {groups} is due")
    used = np.array(devices[: groups * devices_per_member]).reshape(groups, devices_per_member)
    return Mesh(used, (MEMBERS, EXAMPLES))


def auto_width(
    num_members: int,
    bytes_per_member: int,
    devices_per_member: int = 1,
    memory: Budget | None = None,
) -> int:
    """Members to keep in one program: on the CPU one for each group of devices.

    That does not depend on how many members there are, so that parts of a grid and runs by
    themselves have the bits that they have together. On accelerators as many as the memory has
    `state_bytes` for, a power of two for each group, and no more than there are.
    """
    memory = memory or budget()
    groups = max(1, len(jax.devices()) // max(1, devices_per_member))
    if not memory.vmapped:
        return groups
    most = min(memory.state_bytes // max(1, bytes_per_member), MAX_WIDTH)
    needed = -(-num_members // groups)
    each = 1
    while 2 * each <= most and each < needed:
        each *= 2
    return min(each, needed) * groups


def narrower(width: int, needed: int, mesh: Mesh, memory: Budget) -> int:
    """The width to go on with when `needed` members are left: halves, so that few are compiled.

    On the CPU an idle place costs nothing, and the width stays.
    """
    if not memory.vmapped:
        return width
    while width % 2 == 0 and width // 2 >= needed and width // 2 % mesh.shape[MEMBERS] == 0:
        width //= 2
    return width


def over_members(fn: Callable, mesh: Mesh | None, memory: Budget) -> Callable:
    """Return `f(members, shared)`: `fn(*member, shared, part)` for every row of `members`.

    `members` is a tuple of pytrees with a leading axis, `shared` a pytree that all rows see, `part`
    what a row may take of the memory of its device. With a mesh each of its groups of devices takes
    an equal part of the rows.
    """

    def rows(members, shared):
        if not memory.vmapped:
            return jax.lax.map(lambda member: fn(*member, shared, memory), members)
        part = memory.divided(len(jax.tree.leaves(members)[0]))
        return jax.vmap(lambda *member: fn(*member, shared, part))(*members)

    if mesh is None or mesh.size == 1:
        return rows
    spec = PartitionSpec(MEMBERS)
    # Callbacks, by which inputs are streamed, need every axis of the mesh to be manual.
    axes = {MEMBERS} if mesh.shape[EXAMPLES] > 1 else set(mesh.axis_names)
    return jax.shard_map(
        rows,
        mesh=mesh,
        in_specs=(spec, PartitionSpec()),
        out_specs=spec,
        axis_names=axes,
        check_vma=False,
    )


def split_examples(batch: PyTree) -> PyTree:
    """Spread the examples of a batch over the devices of its member, inside `over_members`."""
    spread = partial(jax.lax.with_sharding_constraint, shardings=PartitionSpec(EXAMPLES))
    return jax.tree.map(spread, batch)


def place(tree: PyTree, mesh: Mesh, *, shared: bool = False) -> PyTree:
    """Place the rows of a pytree on the devices of their members, or a shared one on all."""
    # Along one group of devices XLA says that its results are whole: the same said of its arguments
    # spares a second compilation.
    whole = shared or mesh.shape[MEMBERS] == 1
    sharding = NamedSharding(mesh, PartitionSpec() if whole else PartitionSpec(MEMBERS))
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # device_put would send all to every process to compare, and find NaN unequal to itself.
    parts = lambda leaf: jax.make_array_from_callback(  # noqa: E731
        leaf.shape, sharding, lambda index: leaf[index]
    )
    return jax.tree.map(parts, jax.tree.map(np.asarray, tree))


def fetch(tree: PyTree) -> PyTree:
    """Bring a pytree to the host, whole, from the devices of other hosts too."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def barrier() -> None:
    """Wait until every process has come here, so that each sees what the others wrote."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jaxsharp")


def is_mine(name: str) -> bool:
    """Whether this process, and no other, writes what has this name."""
    return zlib.crc32(os.fsencode(name)) % jax.process_count() == jax.process_index()


def agreed(requested: bool) -> bool:
    """Whether any process was asked to stop."""
    return bool(np.any(fetch(np.array([requested]))))


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack the leaves of equal trees along a new leading axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
