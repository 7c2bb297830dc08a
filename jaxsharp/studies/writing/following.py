"""What is followed of the members of a group, after the epochs at which that is due."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsharp.core.memory import Budget
from jaxsharp.measures.contract import Measure, Options, Trained
from jaxsharp.runs import claims
from jaxsharp.studies.recipes import tracking_of
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing.saving import Member
from jaxsharp.training.epochs import Data, Recipe, TrainState
from jaxsharp.training.members import fetch, place
from jaxsharp.training.trackers import QUANTITIES, tracking_program


def follower(
    members: list[Member],
    recipe: Recipe,
    bench: Workbench,
    options: Options,
    mesh: Mesh,
    memory: Budget,
) -> Callable:
    """``f(places, states, hyper, keys, data) -> states``: rows of what is due get their numbers.

    Where nothing is followed it returns the states that it gets.
    """
    config = members[0].config
    tracking = tracking_of(config, bench, options)
    if tracking is None:
        return lambda places, states, *rest: states
    program = tracking_program(tracking, recipe, bench.network, mesh, memory)
    every, size = config.settings.track_every, tracking.size

    def follow(places: list[Member | None], states: TrainState, hyper, keys, data: Data):
        due = [m is not None and not m.diverged and m.epoch % every == 0 for m in places]
        if not any(due):
            return states
        tracked, found = program(states, hyper, keys, place(np.array(due), mesh), data)
        found, trained = fetch(found), ()
        if any(name not in QUANTITIES for name in tracking.names):
            initial = tracked.get("initial")
            trained = fetch((states.params, states.stats, initial))
        for i, member in enumerate(places):
            if not due[i]:
                continue
            row = []
            for name in tracking.names:
                numbers = jax.tree.map(lambda leaf, i=i: leaf[i], found[name])
                if name not in QUANTITIES:
                    at = Trained(*jax.tree.map(lambda leaf, i=i: leaf[i], trained))
                    batch = bench.dataset.train.images[:size], member.labels[:size]
                    measure = tracking.measures[name]
                    numbers = of_measure(name, measure, bench, at, batch, options, numbers)
                row += [float(number) for number in numbers]
            member.follow(row)
        return states._replace(tracked=tracked)

    return follow


def of_measure(
    name: str, measure: Measure, bench: Workbench, at: Trained, batch, options: Options, arrays
) -> tuple[float, float]:
    """Value and error of a measure; NaN, with a warning once, where it is not finite."""
    try:
        record = measure.record(bench.network, at, batch, options, arrays)
    except ValueError as reason:
        claims.warn_once(f"{name} cannot be followed at every epoch: {reason}")
        return np.nan, np.nan
    return record.value, record.error
