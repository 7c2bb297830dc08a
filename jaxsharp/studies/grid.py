"""The grid of a study: its members in order, the groups that one program trains, and its parts."""

import hashlib
import itertools
import json
import math
import re
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
from jaxsharp.runs.growth import obstacle
from jaxsharp.runs.losses import thresholds

MOST_RUNS = 100_000
Value = int | float | str  # of a setting that is varied


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


def held(out: Path, config: StudyConfig) -> StudyConfig:
    """The study that a folder has, if ``config`` extends it; else ``config``.

    Raises RunError where it does but for the number of epochs, and says what keeps it from that.
    """
    try:
        found = StudyConfig.from_dict(claims.read_config(out))
    except (OSError, ValueError):
        return config
    if config.extends(found):
        return found
    if config.with_epochs(found).extends(found):
        epochs = f"{found.settings.epochs} -> {config.settings.epochs}"
        reason = obstacle(found.settings, config.settings)
        raise claims.RunError(
            f"{out} holds another configuration (epochs {epochs}): {reason}; {claims.ELSEWHERE}"
        )
    return config


def in_order(names: Iterable[str], order: Iterable[str]) -> tuple[str, ...]:
    """The names as they follow each other in ``order``, and what is unknown there last."""
    places = {name: place for place, name in enumerate(order)}
    return tuple(sorted(names, key=lambda name: places.get(name, len(places))))


def group_key(member: RunConfig) -> tuple:
    """What the runs of one program have in common: code and shapes, no numbers."""
    settings = member.settings
    given = (
        *(settings.learning_rate, settings.momentum),
        *(settings.weight_decay, settings.decoupled_weight_decay),
    )
    return (
        *(member.optimizer, member.sam, settings.batch_size, settings.average),
        tuple(value is not None for value in given),
    )


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"; ValueError if they are no part of a whole."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard is {shown(text)}; it must be i/n with i from 1 to n, as in 1/4")
    return int(found[1]), int(found[2])


def check_axis_name(name: str) -> None:
    """Raise ValueError for what no grid varies."""
    if name not in SHORT_NAMES:
        raise ValueError(f"cannot vary {shown(name)}; valid are {', '.join(SHORT_NAMES)}")


def check_axis(name: str, values: tuple[Value, ...], settings: Settings) -> None:
    """Raise ValueError unless a grid can give a setting these values, each once."""
    check_axis_name(name)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"vary has {name} {shown(values)}; it must have values, each once")
    for value in values:
        if name == "batch_size" and not isinstance(value, int):
            raise ValueError(f"vary has batch_size {value}; it must be a whole number")
        if isinstance(value, str) != (name == "average"):
            what = "a name" if name == "average" else "a number"
            raise ValueError(f"vary has {name} {shown(value)}; it must be {what}")
        replace(settings, **{name: value}).check()


def parse_vary(texts: tuple[str, ...], settings: Settings) -> dict[str, tuple[Value, ...]]:
    """The axes of a grid from texts like learning_rate=0.1,0.01; ValueError for one that is none.

    Every value must be one that ``settings`` may have.
    """
    vary: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        check_axis_name(name)
        if name in vary:
            raise ValueError(f"vary names {name} twice; give all its values at once")
        kind = {"batch_size": int, "average": str}.get(name, float)
        try:
            found = tuple(dict.fromkeys(kind(value) for value in values.split(",")))
        except ValueError:
            raise ValueError(
                f"vary is {text!r}; it must be {name}=VALUE,VALUE with numbers ({kind.__name__})"
            ) from None
        check_axis(name, found, settings)
        vary[name] = found
    return vary
