"""Run directories: what is on disk of a run or a study, and how what is damaged is noticed.

RUN/config.json              the run's configuration, with a checksum
RUN/checkpoints/epoch_0050   state, history, fingerprint and configuration after 50 epochs
RUN/checkpoints/converged    state and history at the end of a run that converged (or: diverged)
RUN/history.csv              loss and accuracy on both splits after every epoch, a copy
RUN/sharpness.csv            a row a measure and its settings: `SHARPNESS`, checksum of the row
RUN/checkpoint_sharpness.csv the same of checkpoints before the end, each row with the name of its

Training is deterministic, so whatever is damaged is left out, with a warning, and made again.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.typing import ArrayLike

from jaxsharp.core.choices import checked, construct
from jaxsharp.runs import checkpoint, files, fingerprint
from jaxsharp.runs.claims import (
    CONFIGURATION,
    ELSEWHERE,
    DamagedConfigError,
    RunError,
    Warn,
    differences,
    print_warning,
    read_config,
    read_run_config,
    write_config,
)
from jaxsharp.runs.columns import ENDS, EPOCH, MEASUREMENTS, epoch_name, parse_history
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.runs.growth import extends, refusal, with_epochs
from jaxsharp.runs.measurements import read_measurements
from jaxsharp.training.epochs import TrainState


class End(NamedTuple):
    """What of a `TrainState` a checkpoint is named after."""

    epoch: ArrayLike
    converged: ArrayLike
    diverged: ArrayLike


def save(
    path: Path,
    state: TrainState,
    history: pd.DataFrame,
    made_from: Fingerprint,
    config: RunConfig | None = None,
) -> None:
    """Save the training state of a run, its history and what it is made from, in one step.

    With ``config`` too, from which `keep_config` makes a config.json again that was lost.
    """
    name = epoch_name(int(state.epoch))
    if state.converged or state.diverged:
        name = "converged" if state.converged else "diverged"
    target, text = path / "checkpoints" / name, history.to_csv(index=False)
    if not target.exists():
        texts = {"history.csv": text, fingerprint.FILE: made_from.text}
        if config is not None:
            texts[CONFIGURATION] = json.dumps(asdict(config), indent=2) + "\n"
        checkpoint.save(target, state, texts)
    if latest_checkpoint(path) == target:  # and none before it that was lost
        files.write_text(path / "history.csv", text, durable=False)  # `load` makes the copy again


def keep_config(path: Path, config: RunConfig, warn: Warn = print_warning) -> None:
    """Write a single run's config.json anew if it is missing or damaged, and ``config`` is its own,
    or that with more epochs.

    So says the newest intact checkpoint, and ``warn`` gets a line. Raises RunError, and changes
    nothing, if that is of another run, or if no intact one says of which it is.
    """
    file, saved = path / "config.json", checkpoints(path)
    files.check_tree(path)
    if not saved:
        return
    if file.exists():
        with contextlib.suppress(DamagedConfigError):
            read_config(path)
            return
    damage = "damaged" if file.exists() else "missing"
    whole = [each for each in saved if checkpoint.verify(each, texts=["history.csv"]) is None]
    telling = next((each for each in whole if (each / CONFIGURATION).is_file()), None)
    if telling is None:
        left = f"{whole[0].name} is intact and" if whole else "no checkpoint is intact that"
        raise RunError(
            f"{file} is {damage}, and {left} does not say of which run it is; put config.json "
            "back, or choose another directory (--out)"
        )
    try:
        found = checked(construct(RunConfig, files.read_json(telling / CONFIGURATION)))
    except ValueError as error:
        raise RunError(f"{telling / CONFIGURATION}: {error}") from None
    if not extends(config, found):
        changes = differences(asdict(found), asdict(config))
        raise RunError(
            f"{file} is {damage}, and checkpoint {telling.name} is intact and of another run "
            f"({changes}); give the command that trained it, or choose another directory (--out)"
        )
    with files.lock(path):
        aside = f", and now {files.set_aside(file).name}" if file.exists() else ""
        write_config(path, asdict(found))
    warn(f"{file} is {damage}{aside}; it is written anew, as checkpoint {telling.name} has it")


def checkpoints(path: Path, before: int | None = None) -> list[Path]:
    """Checkpoints of a run, the one to continue from first: its end, then the latest epoch.

    Those before an epoch alone, if it is given.
    """
    folder = path / "checkpoints"
    ends = [folder / name for name in ENDS if (folder / name).is_dir()]
    epochs = [p for p in folder.glob("epoch_*") if EPOCH.fullmatch(p.name) and p.is_dir()]
    epochs.sort(key=lambda p: int(p.name[6:]), reverse=True)
    return ends + epochs if before is None else [p for p in epochs if int(p.name[6:]) < before]


def latest_checkpoint(path: Path, before: int | None = None) -> Path | None:
    """The checkpoint to continue a run from, not yet read."""
    return next(iter(checkpoints(path, before)), None)


def check_origin(path: Path, made_from: Fingerprint, advice: str = ELSEWHERE) -> None:
    """Raise RunError if the newest intact checkpoint of a run was made from something else.

    So it is too for a history or measurements that are intact and none.
    """
    for file in MEASUREMENTS:
        read_measurements(path / file, lambda text: None)
    for saved in checkpoints(path):
        try:
            found = fingerprint.read(saved, advice)
            fingerprint.compare(saved, found, made_from, advice=advice)
            parse_history(checkpoint.read_text(saved, "history.csv"), saved)
        except checkpoint.DamagedError:
            continue
        break


def held(path: Path, config: RunConfig) -> RunConfig:
    """The run that a directory has, if ``config`` is that one trained on; else ``config``.

    Raises RunError where it would be but for what its epochs mean, see `growth.obstacle`.
    """
    try:
        found = read_run_config(path)
    except RunError:  # none, or one that `claims.claimed` refuses
        return config
    if with_epochs(config, found) != found:
        return config
    if not extends(config, found):
        raise RunError(refusal(path, found.settings, config.settings, ELSEWHERE))
    return found


def train_on(path: Path, config: RunConfig) -> None:
    """Give a run that is there the epochs of ``config``, of which it had fewer.

    Its config.json, and where it has not ended by them, nothing else is changed but what was
    measured at the end that it had, which is removed: so too where nothing says how many it had.
    """
    try:
        found = read_run_config(path)
    except RunError:  # missing or damaged
        found = None
    if found == config or latest_checkpoint(path) is None:
        return
    if found is not None and not extends(config, found):
        return
    if not is_trained(path, config.settings.epochs):
        (path / "sharpness.csv").unlink(missing_ok=True)
    if found is not None:
        write_config(path, asdict(config))


def load(
    path: Path,
    like: TrainState,
    made_from: Fingerprint,
    warn: Warn = print_warning,
    before: int | None = None,
) -> tuple[TrainState, pd.DataFrame] | None:
    """Training state and history of the newest intact checkpoint of a run, None if it has none.

    A damaged one is renamed, and ``warn`` gets a line that names it. Without one, nothing says what
    measurements were taken of: they are renamed too. Raises ValueError for an intact one of other
    data, another network or optimizer. ``before`` an epoch, where a checkpoint was lost, the copy
    of the history and what was measured stay as they are.
    """

    def mend(latest: Path, error: checkpoint.DamagedError) -> None:
        aside = files.set_aside(latest)
        left = latest_checkpoint(path, before)
        start = "the start" if left is None else left.name
        warn(f"{error}; it is now {aside.name}, and training continues from {start}")

    if (found := newest_state(path, like, made_from, mend, before)) is not None:
        state, text, history = found
        copy = path / "history.csv"
        if before is None and not files.holds(copy, text):
            files.write_text(copy, text)
        return state, history
    for file in MEASUREMENTS if before is None else ():
        if (path / file).is_file():
            aside = files.set_aside(path / file)
            warn(f"{path} has measurements and no checkpoint; they are now in {aside.name}")
    return None


def newest_state(
    path: Path,
    like: TrainState,
    made_from: Fingerprint,
    damaged: Callable[[Path, checkpoint.DamagedError], Any],
    before: int | None = None,
) -> tuple[TrainState, str, pd.DataFrame] | None:
    """State and history, also as text, of the newest intact checkpoint; ``damaged`` gets others."""
    for latest in checkpoints(path, before):
        try:
            return state_of(latest, like, made_from)
        except checkpoint.DamagedError as error:
            damaged(latest, error)
    return None


def state_of(
    saved: Path, like: TrainState, made_from: Fingerprint
) -> tuple[TrainState, str, pd.DataFrame]:
    """State and history, also as text, of a checkpoint; DamagedError if it is not intact."""
    fingerprint.compare(saved, fingerprint.read(saved), made_from)
    state = checkpoint.load(saved, like)
    text = checkpoint.read_text(saved, "history.csv")
    history = parse_history(text, saved)
    check_end(saved, End(state.epoch, state.converged, state.diverged), len(history))
    return state, text, history


def check_end(saved: Path, end: End, epochs: int) -> None:
    """Raise RunError unless a checkpoint is the end that its name says, after so many epochs."""
    names = [name for name in ENDS if getattr(end, name)] or [epoch_name(epochs)]
    if int(end.epoch) != epochs or names != [saved.name]:
        raise RunError(
            f"checkpoint {saved} holds {' and '.join(names)} after {int(end.epoch)} epochs, and a "
            f"history of {epochs}; both must be what its name says"
        )


def check_whole(saved: Path) -> None:
    """Raise ValueError unless a checkpoint is as it was written, and the end that its name says."""
    shapes = End(*(jax.ShapeDtypeStruct((), kind) for kind in (np.int32, np.bool, np.bool)))
    end = checkpoint.load(saved, shapes)
    check_end(saved, end, len(parse_history(checkpoint.read_text(saved, "history.csv"), saved)))


def read_history(path: Path) -> pd.DataFrame:
    """Metrics after every epoch of a run, see ``newest_history``."""
    return newest_history(path)[1]


def newest_history(path: Path) -> tuple[Path, pd.DataFrame]:
    """The newest checkpoint whose history is intact, and that; RunError if there is none.

    The arrays beside it are not read, let alone checked: that is for ``load``.
    """
    for saved in checkpoints(path):
        try:
            return saved, parse_history(checkpoint.read_text(saved, "history.csv"), saved)
        except checkpoint.DamagedError:
            continue
    raise RunError(f"{path} has no intact checkpoint yet; train the run first")


def is_trained(path: Path, epochs: int) -> bool:
    """Whether the newest checkpoint of a run, which is not read, is its end by ``epochs``."""
    latest = latest_checkpoint(path)
    return latest is not None and (latest.name in ENDS or int(latest.name[6:]) >= epochs)
