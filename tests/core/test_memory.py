"""One budget of memory: divided, part of a program's identity, and kept at every width."""

import jax
import jax.numpy as jnp
import pytest

from jaxsharp.core import Budget, budget, memory
from jaxsharp.curvature import hessian
from jaxsharp.measures import MEASURES, Options
from jaxsharp.networks import frozen_loss
from jaxsharp.studies.measuring import measuring_bytes
from jaxsharp.training.members import auto_width, over_members
from tests.tinynets import mlp, tiny_dataset

MIB = 2**20
SMALL = Budget(chunk_bytes=2 * MIB, kept_bytes=2 * MIB, state_bytes=12 * MIB, vmapped=True)
OPTIONS = Options(num_perturbations=4, eigenvalue_tol=1e-2)


def test_a_budget_is_divided_and_not_shared_by_nobody():
    assert SMALL.total == 16 * MIB
    part = SMALL.divided(4)
    assert part == Budget(MIB // 2, MIB // 2, 3 * MIB, True)
    assert SMALL.divided(1) == SMALL and hash(part) == hash(SMALL.divided(4))
    with pytest.raises(ValueError, match="sharers is 0; it must be at least 1"):
        SMALL.divided(0)


@pytest.mark.parametrize("devices", [1, 2, 16])
def test_cores_that_are_devices_divide_the_memory_of_the_host(monkeypatch, devices):
    monkeypatch.setattr(memory, "host_bytes", lambda: 32 * 2**30)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    found = budget()
    assert devices * found.kept_bytes == 8 * 2**30
    assert devices * found.total <= 32 * 2**30
    assert found.chunk_bytes == min(64 * MIB, 2 * 2**30 // devices) and not found.vmapped


def test_a_host_may_be_limited_by_its_control_group(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user/job\n")
    group = tmp_path / "sys/fs/cgroup/user/job"
    group.mkdir(parents=True)
    whole = memory.host_bytes(tmp_path)
    (group / "memory.max").write_text("max\n")
    assert memory.host_bytes(tmp_path) == whole
    (group.parent / "memory.max").write_text(f"{whole // 3}\n")
    assert memory.host_bytes(tmp_path) == whole // 3


def test_a_program_knows_for_what_budget_it_was_compiled():
    """The chunk of one caller was kept by the program, and taken by the next, however many."""
    batch = jnp.ones((512, 64)), jnp.ones((512, 64))
    params = jnp.ones((64, 64))
    loss = lambda p, batch: jnp.mean(jnp.square(jnp.sin(batch[0] @ p) - batch[1]))  # noqa: E731
    wide = hessian(loss, params, batch, memory=SMALL, check=False).strategy
    narrow = hessian(loss, params, batch, memory=SMALL.divided(64), check=False).strategy
    assert wide.startswith("linearized") and narrow.startswith("recomputed")
    at_a_time = [int(text.split(", ")[-1].split()[0]) for text in (wide, narrow)]
    assert at_a_time[0] > 4 * at_a_time[1]


WIDTHS = (1, 4, 16, 64)


def peaks_of(member, whole, network, split, widths=WIDTHS):
    """Bytes that XLA allocates beside arguments and results, by the number of members."""
    params, _ = network.init(jax.random.key(0))
    found = {}
    for width in widths:
        rows = (
            jax.tree.map(lambda leaf, w=width: jnp.stack([leaf] * w), params),
            jax.random.split(jax.random.key(1), width),
        )
        program = jax.jit(over_members(member, None, whole))
        compiled = program.lower(rows, (split.images, jnp.asarray(split.labels))).compile()
        found[width] = compiled.memory_analysis().temp_size_in_bytes
    return found


@pytest.mark.parametrize(
    ("name", "vmapped"),
    [
        ("minimum_sharpness", True),
        ("random_perturbation", True),
        ("top_eigenvalue", True),
        ("minimum_sharpness", False),
    ],
)
def test_peaks_of_measures_stay_under_the_budget_at_every_width(name, vmapped):
    """``vmapped`` is the path of accelerators; a program has as many members as the plan gives."""
    network, split = mlp(widths=(32, 16)), tiny_dataset(num=600).train
    whole = Budget(SMALL.chunk_bytes, SMALL.kept_bytes, 64 * MIB, vmapped)
    params, stats = network.init(jax.random.key(0))
    width = auto_width(WIDTHS[-1], measuring_bytes(params), memory=whole)
    assert width == (WIDTHS[-1] if vmapped else jax.local_device_count())

    def member(params, key, batch, part):
        return MEASURES[name].arrays(network, params, stats, batch, key, OPTIONS, part)

    peaks = peaks_of(member, whole, network, split)
    assert 0 < max(peaks.values()) <= whole.total, peaks


def test_products_that_share_a_device_divide_what_they_keep_and_cut():
    network, split = mlp(widths=(32, 16)), tiny_dataset(num=600).train
    whole = Budget(2 * MIB, 4 * MIB, 6 * MIB, True)
    loss = frozen_loss(network.apply, {})

    def product(divide):
        def member(params, key, batch, part):
            memory = part if divide else whole
            matvec = hessian(loss, params, batch, memory=memory, check=False)
            return jax.lax.fori_loop(0, 3, lambda _, v: matvec(v), params)

        return member

    assert max(peaks_of(product(True), whole, network, split).values()) <= whole.total
    assert peaks_of(product(False), whole, network, split, widths=(64,))[64] > 3 * whole.total
