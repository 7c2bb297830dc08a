"""The command that makes a study or a run, from its configuration."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from jaxsharp.analysis.hypotheses import Hypothesis, written
from jaxsharp.data.datasets import DATASETS
from jaxsharp.measures.registry import MEASURES
from jaxsharp.networks.models import MODELS
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs.config import RunConfig
from jaxsharp.studies.grid import StudyConfig

OWN = {"dataset": "MINE.npz", "model": "MINE.py:MAKE"}


def command_of(config: StudyConfig | RunConfig, hypotheses: Sequence[Hypothesis] = ()) -> str:
    """Return the command with which ``jaxsharp`` makes a study or run of this configuration.

    Options at their defaults are left out. A data set or network of the user's own is known by its
    name alone: the command has MINE.npz or MINE.py:MAKE for it (`own_parts` names them).
    """
    study = isinstance(config, StudyConfig)
    words = ["jaxsharp", "study" if study else "train"]
    for name, names in (("dataset", DATASETS), ("model", MODELS)):
        value = getattr(config, name)
        words += option(name, value if value in names else OWN[name])
    settings = config.settings
    if study:
        words += option("optimizers", config.optimizers, tuple(OPTIMIZERS))
        words += option("sam", config.sam, ("none", "sam"))
        words += option("seeds", config.seeds, StudyConfig().seeds)
        words += option("measures", config.measures, StudyConfig().measures)
        words += [*changed(settings), *changed(config.options)]
        axes = [f"{name}={','.join(map(str, values))}" for name, values in config.vary.items()]
        words += ["--vary", *axes] if axes else []
        words += option("shard", config.shard)
        words += option("hypotheses", written(hypotheses), "")
    else:
        words += option("optimizer", config.optimizer)
        words += option("sam", config.sam, "none")
        words += option("seed", config.seed, 0)
        kept = config.own_rho if settings.rho == config.own_rho else None
        words += changed(settings, rho=kept)
    return shlex.join(words)


def own_parts(config: StudyConfig | RunConfig) -> list[str]:
    """What of a configuration is the user's own, in words."""
    study = isinstance(config, StudyConfig)
    named = {
        "data set": ([config.dataset], DATASETS),
        "network": ([config.model], MODELS),
        "optimizer": (config.optimizers if study else [config.optimizer], OPTIMIZERS),
        "measure": (config.measures if study else [], MEASURES),
    }
    return [
        f"{kind} {n}" for kind, (names, known) in named.items() for n in names if n not in known
    ]


def changed(record: Any, **usual: Any) -> Iterator[str]:
    """Options of the fields of a record that are not at their defaults, or at their ``usual``."""
    for field in fields(record):
        yield from option(
            field.name, getattr(record, field.name), usual.get(field.name, field.default)
        )


def option(name: str, value: Any, default: Any = None) -> Sequence[str]:
    """An option of the command line, nothing at its default."""
    flag = name.replace("_", "-")
    if value == default and type(value) is type(default):
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", ",".join(value) if isinstance(value, tuple) else str(value)]
