"""Members of a group on the host: continued from their directories, and saved there."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from jaxsharp.runs import columns, directory, losses
from jaxsharp.runs.claims import RunError
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies.recipes import beginning, hyper_arrays
from jaxsharp.studies.workbench import Workbench, labels_of
from jaxsharp.training.epochs import Recipe, TrainState, streams
from jaxsharp.training.members import is_mine
from jaxsharp.training.trackers import columns_of


class Member:
    """One run of a group on the host: configuration, latest state, and the rows of its history.

    While it is on the devices, ``state`` is that of when it got there. With epochs of checkpoints
    that were ``lost`` it is continued from before the first of them, and ends with the last.
    """

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        recipe: Recipe,
        bench: Workbench,
        made_from: Fingerprint,
        lost: Sequence[int] = (),
    ):
        self.config, self.path, self.made_from = config, path, made_from
        self.hyper = hyper_arrays(config, bench.optimizers)
        self.order = np.asarray(jax.random.key_data(streams(config.seed).order))
        self.follow_key = np.asarray(jax.random.key_data(streams(config.seed).measure))
        self.labels = labels_of(config, bench)
        self.columns = (*columns.HISTORY, *columns_of(config.settings.tracked))
        before = min(lost, default=None)
        self.state, self.history = resume(recipe, config, path, bench, made_from, before)
        self.start = self.epoch
        self.max_epochs = max(lost, default=recipe.stopping.max_epochs)
        self.converged, self.diverged = bool(self.state.converged), bool(self.state.diverged)

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return len(self.history)

    @property
    def active(self) -> bool:
        """Whether there are epochs left to train."""
        return not (self.converged or self.diverged) and self.epoch < self.max_epochs

    @property
    def due(self) -> bool:
        """Whether it is at its end, or below one of its settings' losses for the first time."""
        limits = losses.thresholds(self.config.settings.save_losses)
        first = losses.first_below(np.array([row[1] for row in self.history]), limits)
        return not self.active or self.epoch in first.values()

    def advance(self, row: np.ndarray, converged: bool, diverged: bool) -> None:
        """Note the metrics of an epoch and how it ended."""
        self.converged, self.diverged = converged, diverged
        unknown = [np.nan] * (len(self.columns) - len(columns.HISTORY))
        self.history = [*self.history, (self.epoch + 1, *row, *unknown)]

    def follow(self, numbers: list[float]) -> None:
        """Note what is followed after the last epoch."""
        metrics = self.history[-1][: len(columns.HISTORY)]
        self.history = [*self.history[:-1], (*metrics, *numbers)]

    def snapshot(self) -> tuple[Path, TrainState, pd.DataFrame, Fingerprint, RunConfig]:
        """What `directory.save` writes of the present state."""
        rows = self.history[: int(self.state.epoch)]
        kinds = dict.fromkeys(self.columns[1:], "float32")
        table = pd.DataFrame(rows, columns=list(self.columns)).astype(kinds)
        return self.path, self.state, table, self.made_from, self.config


class Saver:
    """Writes checkpoints in a thread of its own; what fails there is raised at the next save."""

    def __enter__(self) -> "Saver":
        self.pool, self.writing = ThreadPoolExecutor(1), None
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            self.pool.shutdown()

    def wait(self) -> None:
        """Wait for the checkpoints given so far."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def save(self, members: list[Member]) -> None:
        """Save the present states of members; of several processes each saves its own."""
        self.wait()
        mine = [m.snapshot() for m in members if is_mine(m.path.name)]
        self.writing = self.pool.submit(lambda: [directory.save(*snapshot) for snapshot in mine])


def resume(
    recipe: Recipe,
    config: RunConfig,
    path: Path,
    bench: Workbench,
    made_from: Fingerprint,
    before: int | None = None,
) -> tuple[TrainState, list[tuple]]:
    """State of a member and the rows of its history, where its directory left them.

    If an epoch is given, as they were ``before`` it.
    """
    fresh = lambda: beginning(recipe, config, bench)  # noqa: E731
    saved = directory.load(path, jax.eval_shape(fresh), made_from, before=before)
    if saved is None:
        return jax.device_get(fresh()), []
    state, history = saved
    expected = (*columns.HISTORY, *columns_of(config.settings.tracked))
    if tuple(history) != expected:
        raise RunError(
            f"{path} has a history of {', '.join(history)}; due are {', '.join(expected)}"
        )
    return state, list(history.itertuples(index=False, name=None))
