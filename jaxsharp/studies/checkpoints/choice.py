"""Which checkpoints of runs a user asks for: all that were saved, some epochs, the end."""

import re
from pathlib import Path
from typing import NamedTuple

from jaxsharp.core.choices import shown
from jaxsharp.runs import directory, losses, reading
from jaxsharp.runs.claims import Warn, print_warning
from jaxsharp.runs.columns import ENDS, epoch_name, epoch_of
from jaxsharp.runs.config import RunConfig, Settings
from jaxsharp.studies.measuring import Place

VALID = "all, final, losses, or epochs and those separated by commas, as in 50,100,final"


class Choice(NamedTuple):
    """Every saved epoch and the end if ``every``; else these epochs, and the end if ``final``.

    With ``losses`` the epochs at which the run was saved for its training loss, too.
    """

    epochs: tuple[int, ...] = ()
    final: bool = True
    every: bool = False
    losses: bool = False

    @property
    def text(self) -> str:
        """The same in words."""
        if self.every:
            return "all"
        named = ["losses"] * self.losses + ["final"] * self.final
        return ",".join([*map(str, self.epochs), *named])


FINAL = Choice()


def parse_epochs(text: str) -> Choice:
    """The choice that a text says; ValueError for another text."""
    parts = [part.strip() for part in text.split(",")]
    if parts == ["all"]:
        return Choice(every=True)
    numbers = [part for part in parts if part not in ("final", "losses")]
    valid = all(re.fullmatch(r"[1-9][0-9]{0,8}", part) for part in numbers)
    if not valid or len(set(parts)) < len(parts):
        raise ValueError(f"epochs is {shown(text)}; it must be {VALID}, each once")
    epochs = tuple(sorted(map(int, numbers)))
    return Choice(epochs, "final" in parts, losses="losses" in parts)


def chosen(config: RunConfig, path: Path, choice: Choice) -> list[Place]:
    """The chosen checkpoints that a run has, by epoch, its end last; they are not read.

    An end counts as such alone: it is not one of the epochs, unless these ask for its epoch.
    """
    saved = directory.checkpoints(path)
    ended = directory.is_trained(path, config.settings.epochs)
    earlier = {epoch_of(each.name): each for each in saved if each.name not in ENDS}
    last = None
    if ended:
        newest, history = directory.newest_history(path)
        last = len(history) if newest == saved[0] else None
        earlier = {epoch: each for epoch, each in earlier.items() if each != saved[0]}
    wanted = {*choice.epochs, *(epochs_at_losses(path, config.settings) if choice.losses else ())}
    places = [
        Place(config, path, earlier[epoch])
        for epoch in sorted(earlier)
        if choice.every or epoch in wanted
    ]
    if ended and (choice.every or choice.final or last in wanted):
        places.append(Place(config, path))
    return places


def epochs_at_losses(path: Path, settings: Settings) -> list[int]:
    """The epochs after which a run was first below the losses of its settings, each once."""
    limits = losses.thresholds(settings.save_losses)
    if not limits:
        return []
    history = directory.read_history(path)["train_loss"].to_numpy()
    return sorted(set(losses.first_below(history, limits).values()))


def saved_at_losses(path: Path, settings: Settings) -> list[Path]:
    """The checkpoints of these epochs before the end of a run that are there."""
    return [saved for saved in due_at_losses(path, settings) if saved.is_dir()]


def due_at_losses(path: Path, settings: Settings) -> list[Path]:
    """The checkpoints of these epochs before the end of a run, there or not."""
    epochs = epochs_at_losses(path, settings)
    if epochs and directory.is_trained(path, settings.epochs):
        end = len(directory.read_history(path))
        epochs = [epoch for epoch in epochs if epoch != end]
    return [path / "checkpoints" / epoch_name(epoch) for epoch in epochs]


def lost_at_losses(path: Path, settings: Settings) -> dict[Path, str]:
    """What is wrong with those of these checkpoints that are missing or damaged, in a line each."""
    found = {
        saved: reading.damage(saved) if saved.is_dir() else "it is missing"
        for saved in due_at_losses(path, settings)
    }
    return {saved: reason for saved, reason in found.items() if reason is not None}


def tell_missing(path: Path, settings: Settings, warn: Warn = print_warning) -> None:
    """Give ``warn`` a line for each of these checkpoints that is missing."""
    for saved in due_at_losses(path, settings):
        if not saved.is_dir():
            warn(
                f"checkpoint {saved}, at the first epoch below a loss, is missing; the run is not "
                "measured there; the command that trained it makes it again"
            )
