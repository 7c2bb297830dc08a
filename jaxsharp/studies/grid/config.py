"""The grid of a study: its members in order, the groups that one program trains, and its parts."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxsharp.core.choices import (
    at_least_one,
    checked,
    construct,
    counted,
    each_once,
    plain,
    short,
    shown,
)
from jaxsharp.measures.contract import Options
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES, settings_of
from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.runs import claims
from jaxsharp.runs.columns import COLUMNS
from jaxsharp.runs.config import SAM, SHORT_NAMES, RunConfig, Settings
from jaxsharp.runs.growth import obstacle, refusal
from jaxsharp.runs.losses import thresholds
from jaxsharp.studies.grid.axes import Value, check_axis
from jaxsharp.studies.grid.parts import group_key, parse_shard

MOST_RUNS = 100_000


@dataclass(frozen=True)
class StudyConfig:
    """Everything that decides the numbers of a study.

    ``vary`` has settings of `config.SHORT_NAMES` and the values that the grid gives them. A
    ``shard`` "i/n" is the i-th of n parts of the grid, i from 1. In which order names and values
    are given makes no difference: they are put in that of their registries, and of numbers.
    """

    dataset: str = "digits"
    model: str = "small_mlp"
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    sam: tuple[str, ...] = ("none", "sam")
    seeds: int = 3
    measures: tuple[str, ...] = DEFAULT_MEASURES
    settings: Settings = Settings()
    options: Options = Options()
    vary: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    shard: str | None = None

    def __post_init__(self) -> None:
        """Put names and values in order."""
        orders = {"optimizers": OPTIMIZERS, "sam": SAM, "measures": MEASURES}
        for name, order in orders.items():
            object.__setattr__(self, name, in_order(getattr(self, name), order))
        names = in_order(self.vary, SHORT_NAMES)
        place = lambda value: (isinstance(value, str), value)  # noqa: E731
        vary = {name: tuple(sorted(self.vary[name], key=place)) for name in names}
        object.__setattr__(self, "vary", vary)

    def check(self) -> None:
        """Raise ValueError for what no study can have.

        Data sets, networks, optimizers and measures may be the caller's own: their names are plain,
        so that no run of a study that passed has one that is no plain file name.
        """
        plain("dataset", self.dataset)
        plain("model", self.model)
        each_once("optimizer", self.optimizers)
        each_once("SAM variant", self.sam, SAM)
        each_once("measure", self.measures)
        if taken := set(self.measures) & set(COLUMNS):
            raise ValueError(f"a measure is called {min(taken)}, as a column of the tables is")
        self.settings.check()
        self.options.check()
        lengths = (self.optimizers, self.sam, *self.vary.values())
        num_runs = at_least_one("seeds", self.seeds) * math.prod(map(len, lengths))
        if num_runs > MOST_RUNS:
            raise ValueError(
                f"the grid has {shown(num_runs)} runs with {shown(self.seeds)} seeds; "
                f"it must have at most {MOST_RUNS}"
            )
        for name, values in self.vary.items():
            check_axis(name, values, self.settings)
            given = getattr(self.settings, name)
            if given != getattr(Settings(), name):
                raise ValueError(f"{name} is {given}, and varied too; give all its values in vary")
        if "average" not in self.vary:
            self.settings.check_average()
        if set(self.sam) == {"none"} and ("rho" in self.vary or self.settings.rho is not None):
            raise ValueError(
                "rho is given without a sharpness-aware variant that would take it; sam must name "
                f"one of {', '.join(SHARPNESS_AWARE)}"
            )
        if self.shard is not None and parse_shard(self.shard)[1] > num_runs:
            raise ValueError(
                f"shard is {self.shard} of {counted(num_runs, 'run')}; take fewer parts"
            )

    def check_known(self, optimizers: Iterable[str], measures: Iterable[str]) -> None:
        """Raise ValueError for optimizers and measures that are none of these."""
        each_once("optimizer", self.optimizers, optimizers)
        each_once("measure", self.measures, measures)

    def extends(self, other: "StudyConfig") -> bool:
        """Whether this study has all runs and measures of another one, and all else alike.

        Or more epochs (`runs.growth`), in which alone a shard can be larger.
        """
        names = ("optimizers", "sam", "measures")
        grown = {name: getattr(other, name) for name in (*names, "seeds", "vary")}
        alike = self.with_epochs(other)
        return (
            replace(alike, **grown) == other
            and obstacle(other.settings, self.settings) is None
            and (self.shard is None or alike == other)
            and self.seeds >= other.seeds
            and all(set(getattr(other, name)) <= set(getattr(self, name)) for name in names)
            and list(self.vary) == list(other.vary)
            and all(set(other.vary[name]) <= set(self.vary[name]) for name in self.vary)
        )

    def with_epochs(self, other: "StudyConfig") -> "StudyConfig":
        """This study with the epochs of another."""
        return replace(self, settings=replace(self.settings, epochs=other.settings.epochs))

    def members(self) -> list[RunConfig]:
        """All runs of the grid, each once, seeds last."""
        axes = [self.optimizers, self.sam, *self.vary.values(), range(self.seeds)]
        found = []
        for optimizer, sam, *values, seed in itertools.product(*axes):
            settings = replace(self.settings, **dict(zip(self.vary, values, strict=True)))
            found.append(RunConfig(self.dataset, self.model, optimizer, sam, seed, settings))
        # Without a variant there is no radius, so that several points of the grid are one run.
        return list(dict.fromkeys(member.resolved() for member in found))

    def shard_members(self) -> list[RunConfig]:
        """The runs of this part: consecutive ones, so that the parts share few groups."""
        found = self.members()
        if self.shard is None:
            return found
        index, parts = parse_shard(self.shard)
        return found[(index - 1) * len(found) // parts : index * len(found) // parts]

    def groups(self) -> list[list[RunConfig]]:
        """The runs of this part by what one program trains: they differ in numbers alone."""
        groups: dict[tuple, list[RunConfig]] = {}
        for member in self.shard_members():
            groups.setdefault(group_key(member), []).append(member)
        return list(groups.values())

    @property
    def steps_per_run(self) -> int:
        """Epochs and measures at most."""
        return self.settings.epochs + self.measures_per_run

    @property
    def measures_per_run(self) -> int:
        """Measures at the end, and at the losses at which runs are saved."""
        return len(self.measures) * (1 + len(thresholds(self.settings.save_losses)))

    @property
    def measured(self) -> dict[str, str | None]:
        """The settings with which each measure is taken; None of the user's own."""
        return {name: settings_of(name, self.options) for name in self.measures}

    def axes(self) -> list[str]:
        """Columns of a table that tell the combinations of hyper-parameters apart."""
        return ["optimizer", "sam", *self.vary]

    def as_dict(self) -> dict[str, Any]:
        """The configuration for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "StudyConfig":
        """The configuration that `as_dict` gave, read from JSON and checked.

        ValueError for another one, by field and value.
        """
        return checked(construct(cls, config))

    @property
    def name(self) -> str:
        """Folder name: what the study holds, and a digest that differs for every configuration."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        parts = [listed(self.optimizers, "optimizers"), listed(self.sam, "variants")]
        for name, values in self.vary.items():
            parts.append(SHORT_NAMES[name] + listed(list(map(short, values)), "values"))
        parts.append(counted(self.seeds, "seed").replace(" ", ""))
        parts += [] if self.shard is None else [f"part{self.shard.replace('/', 'of')}"]
        return "-".join([self.dataset, self.model, *parts, digest[:6]])


def listed(names: Sequence[str], noun: str) -> str:
    """Names joined if they are short, otherwise their number."""
    joined = "+".join(names)
    return joined if len(joined) <= 16 else f"{len(names)}{noun}"


def held(out: Path, config: StudyConfig, advice: str = claims.ELSEWHERE) -> StudyConfig:
    """The study that a folder has, if ``config`` extends it; else ``config``.

    Raises RunError where it does but for the number of epochs, and says what keeps it from that,
    and the ``advice``.
    """
    try:
        found = StudyConfig.from_dict(claims.read_config(out))
    except (OSError, ValueError):
        return config
    if config.extends(found):
        return found
    if config.with_epochs(found).extends(found):
        raise claims.RunError(refusal(out, found.settings, config.settings, advice))
    return config


def in_order(names: Iterable[str], order: Iterable[str]) -> tuple[str, ...]:
    """The names as they follow each other in ``order``, and what is unknown there last."""
    places = {name: place for place, name in enumerate(order)}
    return tuple(sorted(names, key=lambda name: places.get(name, len(places))))
