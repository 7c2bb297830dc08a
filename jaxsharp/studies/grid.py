"""The grid of a study: its members in order, the groups that one program trains, and its parts."""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jaxsharp.measures.registry import DEFAULT_MEASURES, Options
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs.config import SHORT_NAMES, RunConfig, Settings


@dataclass(frozen=True)
class StudyConfig:
    """Everything that decides the numbers of a study.

    ``vary`` has settings of `config.SHORT_NAMES` and the values that the grid gives them. A
    ``shard`` "i/n" is the i-th of n parts of the grid, i from 1.
    """

    dataset: str = "digits"
    model: str = "small_mlp"
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    sam: tuple[str, ...] = ("none", "sam")
    seeds: int = 3
    measures: tuple[str, ...] = DEFAULT_MEASURES
    settings: Settings = Settings()
    options: Options = Options()
    vary: dict[str, tuple[int | float, ...]] = field(default_factory=dict)
    shard: str | None = None

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
        """Epochs at most, and measures."""
        return self.settings.epochs + len(self.measures)

    def axes(self) -> list[str]:
        """Columns of a table that tell the combinations of hyper-parameters apart."""
        return ["optimizer", "sam", *self.vary]

    def as_dict(self) -> dict[str, Any]:
        """The configuration for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "StudyConfig":
        """The configuration that `as_dict` gave, read from JSON; TypeError for another one."""
        tuples = {name: tuple(config[name]) for name in ("optimizers", "sam", "measures")}
        nested = {
            "settings": Settings(**config["settings"]),
            "options": Options(**config["options"]),
        }
        vary = {name: tuple(values) for name, values in config.get("vary", {}).items()}
        return cls(**{**config, **tuples, **nested, "vary": vary})

    @property
    def name(self) -> str:
        """Folder name that differs for every configuration."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        return f"study-{self.dataset}-{self.model}-{digest[:6]}"


def group_key(member: RunConfig) -> tuple:
    """What the runs of one program have in common: code and shapes, no numbers."""
    settings = member.settings
    given = (settings.learning_rate, settings.momentum, settings.weight_decay)
    return (
        *(member.optimizer, member.sam, settings.batch_size),
        tuple(value is not None for value in given),
    )


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"; ValueError if they are no part of a whole."""
    index, _, parts = text.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and 1 <= int(index) <= int(parts)):
        raise ValueError(f"shard is {text!r}; it must be i/n with i from 1 to n, as in 1/4")
    return int(index), int(parts)


def parse_vary(texts: tuple[str, ...], settings: Settings) -> dict[str, tuple[int | float, ...]]:
    """The axes of a grid from texts like learning_rate=0.1,0.01; ValueError for one that is none.

    Every value must be one that ``settings`` may have.
    """
    vary: dict[str, tuple[int | float, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in SHORT_NAMES:
            raise ValueError(f"cannot vary {name!r}; valid are {', '.join(SHORT_NAMES)}")
        if name in vary:
            raise ValueError(f"vary names {name} twice; give all its values at once")
        kind = int if name == "batch_size" else float
        try:
            found = tuple(dict.fromkeys(kind(value) for value in values.split(",")))
        except ValueError:
            raise ValueError(
                f"vary is {text!r}; it must be {name}=VALUE,VALUE with numbers ({kind.__name__})"
            ) from None
        for value in found:
            replace(settings, **{name: value}).check()
        vary[name] = found
    return vary
