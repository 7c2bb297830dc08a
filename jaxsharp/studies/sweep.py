"""Many runs as few programs: the members of a group share everything but what is numeric.

The epochs of a group are steps of one compiled program with as many places as its width; a member
that has stopped leaves its place to the next at the end of the epoch. Each member has a directory
of its own, is saved there, and continues from there. Nothing that a member computes depends on its
neighbours or on interruptions.
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsharp.core.memory import Budget, budget, held, intermediate_bytes
from jaxsharp.core.programs import of_many_runs
from jaxsharp.measures.contract import Options
from jaxsharp.networks.batches import in_batches
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies import interrupts
from jaxsharp.studies.origins import fingerprint
from jaxsharp.studies.recipes import make_recipe
from jaxsharp.studies.workbench import Workbench, shared_data
from jaxsharp.studies.writing.following import follower
from jaxsharp.studies.writing.saving import Member, Saver
from jaxsharp.training.epochs import (
    Metrics,
    Recipe,
    TrainState,
    epoch_program,
    training_gradient,
)
from jaxsharp.training.members import (
    agreed,
    auto_width,
    barrier,
    fetch,
    member_mesh,
    narrower,
    place,
    stack,
)


class Layout(NamedTuple):
    """Width of a program (None: chosen), devices a member, memory of each (None: `core.budget`)."""

    width: int | None = None
    devices_per_member: int = 1
    memory: Budget | None = None


ANYHOW = Layout()


def check_layout(layout: Layout, *benches: Workbench) -> None:
    """Raise ValueError for a layout that the devices, or inputs that they stream, do not allow."""
    chosen = layout.width or auto_width(1, 1, layout.devices_per_member, layout.memory)
    member_mesh(chosen, layout.devices_per_member)
    shared = {"devices_per_member": layout.devices_per_member, "processes": jax.process_count()}
    memory = layout.memory or budget()
    for dataset, network in ((bench.dataset, bench.network) for bench in benches):
        inputs = dataset.train.images, dataset.test.images
        given = held(inputs, memory)
        if given is inputs:
            continue
        in_batches(network, (given[0], dataset.train.labels))
        for name, count in shared.items():
            if count > 1:
                raise ValueError(
                    f"{name} is {count}, and the inputs of {dataset.name} do not fit a device and "
                    f"are streamed; {name} must be 1"
                )


class GroupProgress(NamedTuple):
    """What is known of a group after an epoch.

    ``epochs`` done, those that a stopped member no longer needs included; ``trained`` without
    them, and since the group was begun or continued. ``rows`` are the latest of the histories, of
    the members that trained in this epoch, by their directories' names.
    """

    members: int
    stopped: int
    converged: int
    diverged: int
    epochs: int
    trained: int
    rows: dict[str, tuple]


class Pack(NamedTuple):
    """Members on the devices: the one in each place (None: idle), and the program's arguments."""

    places: list[Member | None]
    states: TrainState
    hyper: dict
    orders: jax.Array
    labels: jax.Array
    follow_keys: jax.Array


@of_many_runs()
def train(
    configs: list[RunConfig],
    paths: list[Path],
    bench: Workbench,
    *,
    save_every: int,
    layout: Layout = ANYHOW,
    made_from: Fingerprint | None = None,
    options: Options | None = None,
    report: Callable[[GroupProgress], Any] = lambda progress: None,
    lost: Sequence[Sequence[int]] | None = None,
) -> None:
    """Train the members of a group to their ends, from wherever their directories stand.

    A member is saved every ``save_every`` epochs, at the losses of its settings, at its end, and
    when the user interrupts, which raises KeyboardInterrupt at the end of the epoch; checkpoints
    are written beside the training.
    ``made_from``, if known, is the group's `fingerprint`; what was made from another is refused.
    ``options`` are those of measures that are followed along the way. Of a trained group, ``lost``
    has for each member the epochs of checkpoints that are made again, and nothing else is trained.
    """
    check_layout(layout, bench)
    made_from = made_from or fingerprint(configs[0], bench)
    recipe = make_recipe(configs[0], bench, split_batches=layout.devices_per_member > 1)
    each = zip(configs, paths, lost or [()] * len(paths), strict=True)
    crew = [Member(config, path, recipe, bench, made_from, epochs) for config, path, epochs in each]
    waiting = deque(member for member in crew if member.active)
    if not waiting:
        return
    memory, (width, per_member, _) = layout.memory or budget(), layout
    # Of all members, not of those that are left: a continued group keeps its width and its bits.
    each = member_bytes(recipe, crew[0], bench)
    width = width or auto_width(len(crew), each, per_member, memory)
    mesh = member_mesh(width, per_member)
    program = epoch_program(recipe, mesh, memory)
    follow = follower(crew, recipe, bench, options or Options(), mesh, memory)
    data = place(shared_data(bench, memory), mesh, shared=True)
    pack = make_pack([None] * width, waiting, crew[0], mesh)
    with Saver() as saver, interrupts.deferred() as requested:
        try:
            while any(member is not None for member in pack.places):
                own, tracked = data._replace(labels=pack.labels), pack.states.tracked
                alone = pack.states._replace(tracked=())
                states, metrics = program(alone, *pack[2:4], own)
                due = advance(pack.places, states, metrics, save_every)
                states = states._replace(tracked=tracked)
                states = follow(pack.places, states, pack.hyper, pack.follow_keys, own)
                pack = pack._replace(states=states)
                if due:
                    bring_back(pack)
                    saver.save(due)
                report(progress_of(crew, pack.places))
                if agreed(requested()):
                    raise KeyboardInterrupt
                pack = repack(pack, waiting, mesh, memory)
        except KeyboardInterrupt:
            bring_back(pack)
            saver.save([member for member in pack.places if member is not None])
            raise
    barrier()


def make_pack(
    places: list[Member | None], waiting: deque[Member], template: Member, mesh: Mesh
) -> Pack:
    """Fill idle places with waiting members, and place all on the devices.

    A place that stays idle has the state of ``template``, marked as converged.
    """
    places = [waiting.popleft() if member is None and waiting else member for member in places]
    idle = template.state._replace(converged=np.array(True))
    taken = [member or template for member in places]
    states = [idle if member is None else member.state for member in places]
    names = ("hyper", "order", "labels", "follow_key")
    rows = (states, *([getattr(m, name) for m in taken] for name in names))
    states, hyper, orders, labels, keys = (place(stack(row), mesh) for row in rows)
    orders, keys = (jax.jit(jax.random.wrap_key_data)(data) for data in (orders, keys))
    return Pack(places, states, hyper, orders, labels, keys)


def repack(pack: Pack, waiting: deque[Member], mesh: Mesh, memory: Budget) -> Pack:
    """Let those that have stopped leave; others take their places, or fewer places go on."""
    places = [member if member is not None and member.active else None for member in pack.places]
    running = [member for member in places if member is not None]
    width = narrower(len(places), len(running) + len(waiting), mesh, memory)
    if not running and not waiting:
        return pack._replace(places=places)
    if width == len(places) and (len(running) == width or not waiting):
        return pack._replace(places=places)
    bring_back(pack)
    if width < len(places):
        places = running + [None] * (width - len(running))
    return make_pack(places, waiting, (running or waiting)[0], mesh)


def bring_back(pack: Pack) -> None:
    """Give the members of a pack the states that are on the devices."""
    states = fetch(pack.states)
    for i, member in enumerate(pack.places):
        if member is not None:
            member.state = jax.tree.map(lambda leaf, i=i: leaf[i], states)


def advance(
    places: list[Member | None], states: TrainState, metrics: Metrics, save_every: int
) -> list[Member]:
    """Note an epoch in the members; returns those to be saved."""
    rows, converged, diverged = fetch((jnp.stack(metrics), states.converged, states.diverged))
    due = []
    for i, member in enumerate(places):
        if member is not None:
            member.advance(rows[:, i], bool(converged[i]), bool(diverged[i]))
            if member.due or member.epoch % save_every == 0:
                due.append(member)
    return due


def progress_of(crew: list[Member], places: list[Member | None]) -> GroupProgress:
    """Count the members of a group and their epochs."""
    trained = [member for member in places if member is not None]
    return GroupProgress(
        members=len(crew),
        stopped=sum(not member.active for member in crew),
        converged=sum(member.converged for member in crew),
        diverged=sum(member.diverged for member in crew),
        epochs=sum(member.epoch if member.active else member.max_epochs for member in crew),
        trained=sum(member.epoch - member.start for member in crew),
        rows={member.path.name: member.history[-1] for member in trained},
    )


def member_bytes(recipe: Recipe, member: Member, bench: Workbench) -> int:
    """Memory that a member takes in training: its states, and everything that a step writes."""
    state, batch = member.state, tuple(x[: recipe.batch_size] for x in bench.dataset.train)
    key = jax.eval_shape(lambda: jax.random.key(0))
    gradient = training_gradient(recipe.network, recipe.network.loss.mean)
    step = jax.make_jaxpr(gradient)(state.params, state.stats, batch, key)
    held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    return 3 * held + intermediate_bytes(step.jaxpr)
