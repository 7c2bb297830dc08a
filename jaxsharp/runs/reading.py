"""What is trained, for those who only read: nothing on disk is changed, renamed or made anew."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsharp.runs import checkpoint, claims, files, fingerprint
from jaxsharp.runs.claims import RunError, Warn, print_warning, read_run_config
from jaxsharp.runs.config import RunConfig, labels
from jaxsharp.runs.directory import checkpoints, latest_checkpoint, newest_state, read_history
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.training.epochs import TrainState

DEEPEST = 4  # folders in each other that are searched for runs
TRACES = ("config.json", "status.json", "history.csv")  # the first of which may be lost
FEW = 8  # runs that colours tell apart


def load_end(path: Path, like: TrainState, made_from: Fingerprint, epochs: int) -> TrainState:
    """Training state at the end of a run, converged, diverged or after ``epochs``.

    Nothing is changed. Raises RunError for a run without an end that is intact, with what is
    damaged and which checkpoint is the last whole one.
    """
    damaged: list[checkpoint.DamagedError] = []
    found = newest_state(path, like, made_from, lambda _, error: damaged.append(error))
    state = None if found is None else found[0]
    if state is not None and (state.converged or state.diverged or int(state.epoch) >= epochs):
        return state
    if not damaged:
        raise RunError(f"{path} is not trained to its end; train the run first")
    raise RunError(f"{damaged[0]}; {last_whole(path)}; give the command that trained it again")


def load_parameters(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters and statistics of a trained network as nested dictionaries of arrays.

    ``path`` is a run's directory, which stands for its end or latest epoch, or one checkpoint.
    Neither network nor optimizer need be known: every key, index and name of a field is a text,
    and one with a dot in it is taken for two. Nothing is changed. Raises DamagedError unless the
    checkpoint is as it was written, naming the last whole one, and RunError if there is none.
    """
    path = Path(path)
    files.check_tree(path)
    saved = path if (path / checkpoint.SUMS).is_file() else latest_checkpoint(path)
    if saved is None:
        raise RunError(f"{path} is no checkpoint, and no run that has one yet")
    try:
        params, stats = checkpoint.load_nested(saved, "params", "stats")
    except checkpoint.DamagedError as error:
        run = saved.resolve().parents[1]
        raise checkpoint.DamagedError(f"{error}; {last_whole(run)}") from None
    return params, stats


def damage(saved: Path) -> str | None:
    """What is wrong with a checkpoint of a run, in one line; None if nothing is."""
    texts = ("history.csv", fingerprint.FILE)
    return checkpoint.verify(saved, texts=[t for t in texts if (saved / t).exists()])


def last_whole(path: Path) -> str:
    """Which checkpoint of a run is the newest that is as it was written, in words."""
    whole = next((saved for saved in checkpoints(path) if damage(saved) is None), None)
    return "no other is whole" if whole is None else f"the last whole one is {whole.name}"


def runs_and_studies(folders: Iterable[Path]) -> list[Path]:
    """Each of ``folders`` that is a run or a study, and of any other the ones below it.

    Raises RunError for a folder at which there is none.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        here = below(folder, DEEPEST)
        if not here:
            what = "holds no run and no study" if folder.is_dir() else "is not there"
            raise RunError(f"{folder} {what}; name runs, studies, or a folder of them")
        found |= dict.fromkeys(here)
    return list(found)


def below(folder: Path, levels: int) -> list[Path]:
    """The folder itself if it is a run or a study, damaged or not, and otherwise those in it."""
    parts = any((folder / name).is_dir() for name in ("runs", "checkpoints"))
    traces = any(os.path.lexists(folder / name) for name in TRACES)
    if claims.kind(folder) is not None or (parts and traces):
        return [folder]
    if levels == 0 or not folder.is_dir():
        return []
    inside = [each for each in sorted(folder.glob("[!.]*")) if not each.is_symlink()]
    return [found for each in inside for found in below(each, levels - 1)]


def histories(folders: Iterable[Path], warn: Warn = print_warning) -> dict[str, list[pd.DataFrame]]:
    """The history of each run of ``folders``, of their studies too, by what tells it from others.

    Of more than `FEW` runs, those that differ in their seeds alone stand together. A run that has
    none, or is damaged, is left out, and ``warn`` gets a line that names it; if no run is left,
    that line is a RunError.
    """
    found: dict[Path, tuple[RunConfig, pd.DataFrame]] = {}
    left = []
    for folder in runs_and_studies(folders):
        files.check_tree(folder)
        inside = [each for path in sorted(folder.glob("runs/[!.]*")) for each in below(path, 0)]
        for path in inside or [folder]:
            try:
                found[path] = read_run_config(path), read_history(path)
            except RunError as error:
                left.append(str(error))
    if not found:
        raise RunError(left[0] if left else "there is no run yet")
    for line in left:
        warn(f"{line}; it is left out")
    named: dict[str, list[pd.DataFrame]] = {}
    together = len(found) > FEW
    names = labels([config for config, _ in found.values()], seeds=not together)
    for (path, (_, history)), name in zip(found.items(), names, strict=True):
        own = name if together or name not in named else f"{name}, {path}"
        named.setdefault(own, []).append(history)
    return named
