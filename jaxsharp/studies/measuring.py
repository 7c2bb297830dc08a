"""Sharpness of trained runs: every measure of all members of a group in one program."""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxsharp.core.choices import known
from jaxsharp.core.keys import stream
from jaxsharp.core.memory import Budget, budget, held
from jaxsharp.core.programs import of_many_runs
from jaxsharp.measures.contract import UNDEFINED, Measure, Options, Record, Trained
from jaxsharp.measures.registry import place_of
from jaxsharp.networks.network import Network
from jaxsharp.runs import checkpoint, claims, directory, measurements, reading
from jaxsharp.runs.columns import epoch_of
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies.origins import fingerprint
from jaxsharp.studies.recipes import beginning, make_recipe
from jaxsharp.studies.sweep import ANYHOW, Layout
from jaxsharp.studies.workbench import Workbench, labels_of
from jaxsharp.training.epochs import TrainState, streams
from jaxsharp.training.members import (
    auto_width,
    barrier,
    fetch,
    is_mine,
    member_mesh,
    over_members,
    place,
    stack,
)

# Vectors like the parameters that a measure of one of several vmapped members takes at most.
VECTORS = 96


class Place(NamedTuple):
    """Where measures are taken: the end of a run, or the checkpoint ``saved`` of it before."""

    config: RunConfig
    path: Path
    saved: Path | None = None

    @property
    def checkpoint(self) -> str | None:
        """Name of the checkpoint, None at the end."""
        return None if self.saved is None else self.saved.name

    @property
    def file(self) -> Path:
        """Where its measurements are written."""
        name = "sharpness.csv" if self.saved is None else "checkpoint_sharpness.csv"
        return self.path / name

    def mine(self, table: pd.DataFrame) -> np.ndarray:
        """Which rows of that file are of this place."""
        if self.saved is None:
            return np.ones(len(table), bool)
        return (table["checkpoint"] == self.checkpoint).to_numpy()


@of_many_runs()
def measure(
    configs: list[RunConfig],
    paths: list[Path],
    bench: Workbench,
    measures: Iterable[str],
    options: Options,
    *,
    saved: Sequence[Path | None] | None = None,
    layout: Layout = ANYHOW,
    made_from: Fingerprint | None = None,
    report: Callable[[str, int], Any] = lambda name, done: None,
    lost: Callable[[Place, ValueError], Any] | None = None,
) -> None:
    """Measure the ends of a group's runs on their training sets; what is on disk is not repeated.

    ``saved`` has a checkpoint for each, where it is not the end (None) that is measured; a run may
    be there several times. All of them go through one program a measure.

    The settings' `measure_size`, if given, is the number of examples, the first of the set.
    A diverged run gets NaN for value and error, and is not finished. Each measure of each run has
    its own random key, one at all of its checkpoints. ``report`` gets the name of each measure, and
    how many runs have it, before it is taken of more. Raises RunError for a run that was not
    trained, or from something else than the group's `fingerprint` ``made_from``, of which nothing
    is then measured, and DamagedError for a checkpoint that is; ``lost``, if given, gets the error
    of one that cannot be read, and the others are measured.
    """
    made_from = made_from or fingerprint(configs[0], bench)
    for path in dict.fromkeys(paths):
        directory.check_origin(path, made_from)
    places = list(map(Place, configs, paths, saved or [None] * len(paths)))
    memory = layout.memory or budget()
    states: dict[Place, TrainState] = {}
    shared: dict[Hashable, PyTree] = {}
    for name in measures:
        taken = bench.measures[known("measure", name, bench.measures)]
        settings = taken.settings(options)
        missing = [place for place in places if not is_measured(place, name, settings)]
        if not missing:
            continue
        for at in [each for each in missing if each not in states]:
            try:
                states[at] = state_at(at, bench, made_from)
            except (claims.RunError, checkpoint.DamagedError) as error:
                if lost is None:
                    raise
                lost(at, error)
                places.remove(at)
                missing.remove(at)
        if not missing:
            continue
        each = measuring_bytes(states[missing[0]].params)
        chosen = auto_width(len(places), each, memory=memory)
        width = chosen if layout.width is None else measuring_width(layout.width)
        for start in range(0, len(missing), width):
            report(name, len(places) - len(missing) + start)
            part = missing[start : start + width]
            trained = [(place, states[place]) for place in part]
            found = results(name, taken, trained, bench, options, width, memory, shared)
            for at, measured in zip(part, found, strict=True):
                record(at, name, taken, settings, measured)
    barrier()


@functools.lru_cache(maxsize=64)
def measuring_program(
    measure: Measure, network: Network, options: Options, mesh: Mesh, memory: Budget
) -> Callable:
    """Compiled `f((active, at, labels, keys), images) -> arrays` of a measure.

    One for all groups; a place that is not active computes nothing.
    """

    def member(active, at, labels, key, images, memory):
        def arrays():
            return measure.arrays(network, at, (images, labels), key, options, memory)

        def nothing():
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        shapes = jax.eval_shape(arrays)
        return jax.lax.cond(active, arrays, nothing)

    return jax.jit(over_members(member, mesh, memory))


def results(
    name: str,
    measure: Measure,
    members: list[tuple[Place, TrainState]],
    bench: Workbench,
    options: Options,
    width: int,
    memory: Budget,
    shared: dict[Hashable, PyTree] | None = None,
) -> list[Record]:
    """Records of a measure of at most ``width`` members.

    NaN for one that diverged, or whose value is not finite, for which a warning says the reason.
    What measures of one stream computed is put into ``shared``, and taken from there.
    """
    mesh = member_mesh(width)
    size = members[0][0].config.settings.measure_size
    images = bench.dataset.train.images[:size]
    rows = []
    for i in range(width):
        (config, *_), state = members[min(i, len(members) - 1)]
        active = np.array(i < len(members) and not state.diverged)
        labels = labels_of(config, bench)[:size]
        key = measuring_key(config, measure.stream or name)
        rows.append((active, trained_arrays(measure, config, state, bench), labels, key))
    *arguments, keys = (place(stack(column), mesh) for column in zip(*rows, strict=True))
    program = measuring_program(measure, bench.network, options, mesh, memory)
    keys = jax.jit(jax.random.wrap_key_data)(keys)
    identity = measure.stream, tuple(place for place, _ in members)
    try:
        found = (shared or {}).get(identity)
        if found is None:
            seen = place(held(images, memory), mesh, shared=True)
            found = fetch(program((*arguments, keys), seen))
        if shared is not None and measure.stream:
            shared[identity] = found
    except ValueError as reason:  # the measure is not defined for such a network
        claims.warn_once(f"no {name} of {members[0][0].config.model}: {reason}")
        return [UNDEFINED] * len(members)
    records = []
    for i, (whose, state) in enumerate(members):
        measured = UNDEFINED
        if not state.diverged:
            arrays = jax.tree.map(lambda leaf, i=i: leaf[i], found)
            at, batch = rows[i][1], (images, rows[i][2])
            try:
                measured = measure.record(bench.network, at, batch, options, arrays)
            except ValueError as reason:
                claims.print_warning(f"{whose.config.name} has no {name}: {reason}")
        records.append(measured)
    return records


def trained_arrays(
    measure: Measure, config: RunConfig, state: TrainState, bench: Workbench
) -> Trained:
    """What a measure sees of a run, the parameters it began with made anew where it asks."""
    initial = None
    if measure.from_initial:
        initial = jax.device_get(bench.trained.init(streams(config.seed).init)[0])
    return Trained(state.params, state.stats, initial)


def measuring_key(config: RunConfig, name: str) -> np.ndarray:
    """Data of the random key with which a measure of a run is taken."""
    key = stream(streams(config.seed).measure, name)
    return np.asarray(jax.random.key_data(key))


def measuring_width(width: int) -> int:
    """The width of training, or more where several processes take part with every device."""
    due = 1 if jax.process_count() == 1 else len(jax.devices())
    return -(-width // due) * due


def measuring_bytes(params: PyTree) -> int:
    """Memory for vectors like the parameters that a measure of a member takes.

    Most are Lanczos' basis of twenty, of which a vmapped loop has three copies and more
    (`experiments/benchmarks/memory.py`).
    """
    return VECTORS * sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(params))


def state_at(at: Place, bench: Workbench, made_from: Fingerprint) -> TrainState:
    """State at the end of a run, RunError if it has none that is intact, or at a checkpoint."""
    config = at.config
    like = jax.eval_shape(lambda: beginning(make_recipe(config, bench), config, bench))
    if at.saved is not None:
        return directory.state_of(at.saved, like, made_from)[0]
    return reading.load_end(at.path, like, made_from, config.settings.epochs)


def is_measured(at: Place, name: str, settings: str) -> bool:
    """Whether a run's directory has a measure that was taken there with these settings."""
    table = measurements.read_measurements(at.file)
    same = (table["measure"] == name) & (table["settings"] == settings) & at.mine(table)
    return bool(same.any())


def record(at: Place, name: str, measure: Measure, settings: str, measured: Record) -> None:
    """Write a measurement into a run's directory; of several processes one does."""
    if not is_mine(at.path.name):
        return
    table = measurements.read_measurements(at.file)
    same = (table["measure"] == name) & at.mine(table)
    if not measure.code:  # of the user's own, what other code measured is not kept beside it
        same &= table["settings"] == settings
    kinds = {"error_kind": measure.error, "cost_unit": measure.cost}
    row = {"measure": name, "settings": settings, **measured._asdict(), **kinds}
    rows = [*table[~same].to_dict("records"), {"checkpoint": at.checkpoint, **row}]
    rows.sort(key=lambda row: (epoch_of(row.get("checkpoint")), place_of(row["measure"])))
    measurements.write_measurements(at.file, pd.DataFrame(rows))
