"""Widths and meshes by rule, and programs over members against a loop."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import memory
from jaxsharp.training import members
from jaxsharp.training.members import MAX_WIDTH, auto_width, member_mesh, narrower, over_members

MANY = 10**9


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be one: its platform, devices, memory of each, processes."""

    def pretend(platform, devices, processes=1, memory_bytes=4 * MANY):
        found = jax.local_devices()[:1] * devices
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        monkeypatch.setattr(jax, "devices", lambda: found)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        monkeypatch.setattr(memory, "device_bytes", lambda: memory_bytes)

    return pretend


@pytest.mark.parametrize(
    ("devices", "processes", "num_members", "per_member", "width"),
    [(1, 1, 9, 1, 1), (8, 1, 9, 1, 8), (8, 1, 3, 1, 8), (8, 1, 9, 2, 4), (8, 2, 3, 1, 8)],
)
def test_on_the_cpu_a_program_has_a_member_for_each_group_of_devices(
    machine, devices, processes, num_members, per_member, width
):
    """However few members there are: their bits depend on the width."""
    machine("cpu", devices, processes)
    assert auto_width(num_members, MANY, per_member) == width


@pytest.mark.parametrize(
    ("devices", "num_members", "bytes_per_member", "width"),
    [
        (1, 64, 1, 64),
        (1, 5, 1, 5),  # a place that nobody takes would cost as much as a member
        (1, 9999, 1, MAX_WIDTH),
        (1, 64, MANY // 10, 8),  # a quarter of the memory holds 10
        (1, 64, 5 * MANY, 1),  # or none
        (4, 64, 1, 64),
        (4, 6, 1, 8),
        (4, 64, MANY // 10, 32),
    ],
)
def test_on_an_accelerator_a_program_has_as_many_members_as_its_memory_holds(
    machine, devices, num_members, bytes_per_member, width
):
    machine("gpu", devices)
    assert auto_width(num_members, bytes_per_member) == width


@pytest.mark.parametrize(
    ("width", "per_member", "processes", "shape"),
    [
        (8, 1, 1, (8, 1)),
        (6, 1, 1, (6, 1)),
        (9, 1, 1, (3, 1)),
        (11, 1, 1, (1, 1)),
        (4, 2, 1, (4, 2)),
        (3, 2, 1, (3, 2)),
        (1, 8, 1, (1, 8)),
        (16, 1, 2, (8, 1)),
        (4, 2, 2, (4, 2)),
    ],
)
def test_a_mesh_has_as_many_groups_as_divide_the_width(
    machine, width, per_member, processes, shape
):
    machine("cpu", 8, processes)
    assert tuple(member_mesh(width, per_member).shape.values()) == shape


def test_meshes_that_cannot_be_are_refused(machine):
    machine("cpu", 8)
    for number in (0, 3, 16):
        with pytest.raises(ValueError, match=f"devices_per_member is {number}; it must divide the"):
            member_mesh(8, number)
    machine("cpu", 8, 2)
    with pytest.raises(ValueError, match="width is 6; with several processes a multiple of 8"):
        member_mesh(6)


@pytest.mark.parametrize(
    ("width", "needed", "groups", "after"),
    [(64, 40, 1, 64), (64, 32, 1, 32), (64, 1, 1, 1), (12, 2, 1, 3), (16, 1, 4, 4), (8, 0, 1, 1)],
)
def test_a_program_narrows_by_halves(machine, width, needed, groups, after):
    for platform, want in (("gpu", after), ("cpu", width)):
        machine(platform, groups)
        assert narrower(width, needed, member_mesh(width), memory.budget()) == want


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_program_over_members_is_a_loop(monkeypatch, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    rng = np.random.default_rng(0)
    rows = {"a": rng.normal(size=(5, 3)).astype(np.float32)}, np.arange(5.0, dtype=np.float32)
    shared = rng.normal(size=3).astype(np.float32)

    def member(tree, scale, shared, part=None):
        return {"out": scale * tree["a"] - shared}, jnp.cumsum(tree["a"] * shared)

    found = jax.jit(over_members(member, member_mesh(5), memory.budget()))(rows, shared)
    for i in range(5):
        want = member({"a": jnp.asarray(rows[0]["a"][i])}, rows[1][i], shared)
        jax.tree.map(
            lambda got, one, i=i: np.testing.assert_allclose(got[i], one, rtol=1e-6), found, want
        )


def test_members_that_are_vmapped_share_the_memory_for_chunks():
    """On the CPU they follow each other, and each has all of it."""
    seen = []

    def member(row, shared, part):
        # 1 KiB an example and 4 MiB in all; twice that is written by the two operations.
        image = jnp.zeros((4096, 256))
        seen.append(memory.affordable_chunk(lambda x: jnp.sin(x) * 2, image, part))
        return row

    rows = (jnp.zeros(16),)
    for vmapped in (False, True):
        whole = memory.Budget(2**23, 2**24, 2**24, vmapped)
        jax.eval_shape(over_members(member, None, whole), rows, ())
    assert seen == [None, 256]


def test_a_name_belongs_to_exactly_one_process(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    owners = []
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        owners.append([members.is_mine(f"sgd-seed{i}") for i in range(30)])
    np.testing.assert_array_equal(np.sum(owners, axis=0), 1)
    assert np.all(np.sum(owners, axis=1) > 3)


def test_cores_become_devices_unless_something_else_was_said(monkeypatch):
    said = []
    config = SimpleNamespace(jax_num_cpu_devices=-1, update=lambda *pair: said.append(pair))
    monkeypatch.setattr(members.jax, "config", config)
    monkeypatch.setattr(members.os, "sched_getaffinity", lambda _: {0, 1, 5})
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    members.cores_as_devices()
    assert said == []
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    members.cores_as_devices()
    assert said == [("jax_num_cpu_devices", 3)]
    config.jax_num_cpu_devices = 2
    members.cores_as_devices()
    assert len(said) == 1
