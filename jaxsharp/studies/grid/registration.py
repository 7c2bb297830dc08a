"""Preregistration: hypotheses and the grid they are about, in a study's config.json.

    "preregistration": {
        "hypotheses": [{"measure": "minimum_sharpness", "sign": "+", "target": "gap"}],
        "grid": the study's configuration as it was then, of a part (shard) that of the whole,
        "registered": "2026-01-31T12:00:00+00:00",
        "sha256": SHA-256 of {"grid": ..., "hypotheses": ...} as JSON with sorted keys
    }

It is written before the first run and never changed after it. A study that grows keeps it beside
its present configuration.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from jaxsharp.analysis.hypotheses import Hypothesis, check_hypotheses, parse_hypotheses, written
from jaxsharp.core.choices import construct, counted, listed, shown
from jaxsharp.measures.registry import MEASURES
from jaxsharp.runs import claims, files
from jaxsharp.runs.claims import PREREGISTRATION, RunError
from jaxsharp.studies.grid.config import StudyConfig

TARGETS = ("gap", "loss_gap", "test_accuracy", "test_loss")
ACCURACIES = ("gap", "test_accuracy")
ADVICE = "leave hypotheses out, or choose another directory (--out)"


@dataclass(frozen=True)
class Registration:
    """Hypotheses, the whole grid as it was when they were registered, and when, in UTC.

    ``entry`` is what config.json has of it.
    """

    hypotheses: tuple[Hypothesis, ...]
    grid: StudyConfig
    registered: str
    entry: dict[str, Any]

    @property
    def sha256(self) -> str:
        """The digest of hypotheses and grid."""
        return self.entry["sha256"]

    @property
    def text(self) -> str:
        """Hypotheses, date and digest, in words."""
        return f"{written(self.hypotheses)} on {self.registered}, SHA-256 {self.sha256}"


def digest(entry: dict[str, Any]) -> str:
    """SHA-256 of the grid and the hypotheses of an entry, as JSON with sorted keys."""
    return claims.checksum({name: entry[name] for name in ("grid", "hypotheses")})


def hypotheses_of(
    given: str | Sequence[Any], config: StudyConfig, measures: Iterable[str] = MEASURES
) -> tuple[Hypothesis, ...]:
    """The hypotheses of texts, sorted; ValueError for what a study cannot test.

    ``measures`` are all that there are; those of the study must be among its own.
    """
    found = parse_hypotheses(given, measures, TARGETS)
    for each in found:
        if each.measure not in config.measures:
            raise ValueError(
                f"hypotheses has {each}, and the study does not measure {each.measure}; add it to "
                f"measures, or name one of {', '.join(config.measures)}"
            )
    return found


def check_targets(hypotheses: Iterable[Hypothesis], network: Any) -> None:
    """Raise ValueError for targets that are of an accuracy, where a network's loss has none."""
    for each in hypotheses:
        if network.loss.accuracy is None and each.target in ACCURACIES:
            raise ValueError(
                f"hypotheses has {each}, and the loss {network.loss.name} has no accuracy; valid "
                f"targets are {', '.join(name for name in TARGETS if name not in ACCURACIES)}"
            )


def register(config: StudyConfig, hypotheses: tuple[Hypothesis, ...]) -> Registration:
    """The registration of hypotheses on the whole grid of a study, now."""
    grid = replace(config, shard=None)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"hypotheses": [asdict(each) for each in hypotheses], "grid": grid.as_dict()}
    entry = json.loads(json.dumps(entry)) | {"registered": now}
    return Registration(hypotheses, grid, now, entry | {"sha256": digest(entry)})


def read(out: Path) -> Registration | None:
    """What a study's folder registers; None if nothing, or if it has no config.json of a study.

    Raises RunError for a config.json that is damaged, and for an entry that is not as it was
    written: one whose digest does not fit, or that says what no study can register.
    """
    file = out / "config.json"
    if not file.exists():
        return None
    found = claims.parse_config(file)
    registration = parsed(file, found) if PREREGISTRATION in found else None
    if "seeds" in found:
        claims.read_config(out)
    return registration


def parsed(file: Path, found: dict[str, Any]) -> Registration:
    """The registration of a config.json, checked; RunError for one that cannot be."""
    entry = found[PREREGISTRATION]
    try:
        names = ("hypotheses", "grid", "registered", "sha256")
        if not isinstance(entry, dict) or sorted(entry) != sorted(names):
            raise ValueError(f"it is {shown(entry)}; it must have {', '.join(names)}")
        if (wanted := digest(entry)) != entry["sha256"]:
            raise ValueError(
                f"the SHA-256 of its hypotheses and grid is {wanted[:12]}, and not "
                f"{shown(entry['sha256'])[:13].strip(chr(39))}: they are not those that were "
                "registered; restore the file"
            )
        if not isinstance(entry["hypotheses"], list) or not entry["hypotheses"]:
            raise ValueError(f"hypotheses is {shown(entry['hypotheses'])}; it must be a list")
        hypotheses = [construct(Hypothesis, each, "hypotheses") for each in entry["hypotheses"]]
        grid = StudyConfig.from_dict(entry["grid"])
        when = datetime.fromisoformat(str(entry["registered"]))
        if when.utcoffset() is None:
            raise ValueError(f"registered is {shown(entry['registered'])}; it must be a time, UTC")
        checked = check_hypotheses(hypotheses, grid.measures, TARGETS)
    except ValueError as error:
        raise RunError(f"{file} has a preregistration that does not hold: {error}") from None
    return Registration(checked, grid, when.isoformat(timespec="seconds"), entry)


def due(
    out: Path, config: StudyConfig, hypotheses: tuple[Hypothesis, ...], *, fresh: bool = False
) -> Registration | None:
    """What the folder of a study is to register when a command asks for hypotheses, or for none.

    What it has registered stays. RunError for others once a run was begun, and for a registration
    that was tampered with.
    """
    found = None if fresh else salvaged(out)
    before = () if found is None else found.hypotheses
    wanted = hypotheses or before
    if not fresh and is_begun(out):
        if wanted != before:
            has = f"registers {found.text}" if found else "registers no hypotheses"
            raise RunError(
                f"{out} has runs and {has}; {written(wanted)} would come after the first run, and "
                f"be exploratory: {ADVICE}"
            )
        return found
    if not wanted:
        return None
    if before and wanted != before:
        claims.print_warning(
            f"{out}: the hypotheses {written(before)} are replaced; no run was begun"
        )
    made = register(config, wanted)
    return found if found is not None and found.sha256 == made.sha256 else made


def is_begun(out: Path) -> bool:
    """Whether a study has, or had, a run."""
    return (out / "runs.csv").exists() or any(out.glob("runs/[!.]*"))


def salvaged(out: Path) -> Registration | None:
    """`read`, of a damaged config.json too: its entry has a digest of its own.

    A warning says where an entry cannot be read any more.
    """
    try:
        return read(out)
    except claims.DamagedConfigError as error:
        file = out / "config.json"
        with contextlib.suppress(claims.DamagedConfigError):
            found = claims.parse_config(file)
            return parsed(file, found) if PREREGISTRATION in found else None
        if PREREGISTRATION.encode() in files.read_bytes(file):
            claims.print_warning(f"{error}; what it registers is lost, and all is exploratory")
        return None


def keep(out: Path, registration: Registration | None) -> None:
    """Write a registration into the config.json of a study that is claimed, if it has another."""
    found = claims.parse_config(out / "config.json").get(PREREGISTRATION)
    if registration is not None and found != registration.entry:
        claims.write_config(out, claims.read_config(out), registration.entry)


def of_grid(runs: pd.DataFrame, grid: StudyConfig) -> Bool[np.ndarray, " n"]:
    """Which rows of a table of runs are of a grid, and ended within its epochs."""
    found = runs["optimizer"].isin(grid.optimizers) & runs["sam"].isin(grid.sam)
    found &= runs["seed"].between(0, grid.seeds - 1) & (runs["epochs"] <= grid.settings.epochs)
    found &= runs["dataset"].eq(grid.dataset) & runs["model"].eq(grid.model)
    for name, values in grid.vary.items():
        # Without a variant there is no radius.
        found &= runs[name].isin(values) | ((name == "rho") & runs["sam"].eq("none"))
    return found.to_numpy(dtype=bool)


def later(registration: Registration, config: StudyConfig) -> str:
    """What a study has beyond the grid that it registered, in words; "" if nothing.

    Runs that came later are named, and of those that were trained on, their epochs.
    """
    first = {member.name for member in registration.grid.members()}
    added = [member.name for member in config.shard_members() if member.name not in first]
    parts = []
    if added:
        parts.append(f"{counted(len(added), 'run')} came later ({listed(added)})")
    epochs = registration.grid.settings.epochs, config.settings.epochs
    if epochs[0] != epochs[1]:
        parts.append(f"runs were trained on from {epochs[0]} to {epochs[1]} epochs")
    more = [name for name in config.measures if name not in registration.grid.measures]
    if more:
        parts.append(f"measured later: {', '.join(more)}")
    return "; ".join(parts)
