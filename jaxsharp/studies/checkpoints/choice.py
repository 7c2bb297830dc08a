"""Which checkpoints of runs a user asks for: all that were saved, some epochs, the end."""

import re
from pathlib import Path
from typing import NamedTuple

from jaxsharp.core.choices import shown
from jaxsharp.runs import directory
from jaxsharp.runs.columns import ENDS, epoch_of
from jaxsharp.runs.config import RunConfig
from jaxsharp.studies.measuring import Place

VALID = "all, final, or epochs and final separated by commas, as in 50,100,final"


class Choice(NamedTuple):
    """Every saved epoch and the end if ``every``; else these epochs, and the end if ``final``."""

    epochs: tuple[int, ...] = ()
    final: bool = True
    every: bool = False

    @property
    def text(self) -> str:
        """The same in words."""
        if self.every:
            return "all"
        return ",".join([*map(str, self.epochs), *["final"] * self.final])


FINAL = Choice()


def parse_epochs(text: str) -> Choice:
    """The choice that a text says; ValueError for another text."""
    parts = [part.strip() for part in text.split(",")]
    if parts == ["all"]:
        return Choice(every=True)
    numbers = [part for part in parts if part != "final"]
    valid = all(re.fullmatch(r"[1-9][0-9]{0,8}", part) for part in numbers)
    if not valid or len(set(parts)) < len(parts):
        raise ValueError(f"epochs is {shown(text)}; it must be {VALID}, each once")
    return Choice(tuple(sorted(map(int, numbers))), "final" in parts)


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
    places = [
        Place(config, path, earlier[epoch])
        for epoch in sorted(earlier)
        if choice.every or epoch in choice.epochs
    ]
    if ended and (choice.every or choice.final or last in choice.epochs):
        places.append(Place(config, path))
    return places
