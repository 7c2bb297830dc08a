"""Run directories: what is on disk of a run or a study, files written completely or not at all.

RUN/config.json              the run's configuration
RUN/history.csv              loss and accuracy on both splits after every epoch
RUN/checkpoints/epoch_0050   training state after 50 epochs (``checkpoint``)
RUN/checkpoints/converged    training state at the end of a run that converged (or: diverged)
RUN/sharpness.csv            measure, settings, value, error
"""

import inspect
import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsharp import checkpoint
from jaxsharp.optimizers import SHARPNESS_AWARE
from jaxsharp.train import TrainState

SAM = ("none", *SHARPNESS_AWARE)
HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")


class RunError(ValueError):
    """A run directory that cannot be used as asked; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """How a run is trained."""

    epochs: int = 200
    """Epoch limit."""
    batch_size: int = 128
    """Examples a step."""
    learning_rate: float | None = None
    """Learning rate instead of the optimizer's own."""
    rho: float | None = None
    """Radius of the sharpness-aware variants instead of the own one of each."""
    loss_below: float | None = 0.01
    """Converged once the training loss is below this (study A); None: never."""
    change_below: float | None = None
    """Converged once the training loss changes by less in `patience` epochs (study B)."""
    patience: int = 5
    """Consecutive epochs for change-below."""
    train_size: int | None = None
    """Train on a stratified subset of this many examples."""
    holdout: int = 0
    """Evaluate on the last N training examples instead of the test set."""
    label_noise: float = 0.0
    """Fraction of the training labels that is redrawn at random."""
    measure_size: int | None = None
    """Measure sharpness on the first N training examples instead of all."""

    def check(self) -> None:
        """Raise ValueError for a value that no run can have; the data set's limits come later."""
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (is_positive(self.learning_rate), "a finite number above 0"),
            "rho": (self.rho is None or 0 <= self.rho < math.inf, "a finite number, at least 0"),
            "loss_below": (is_positive(self.loss_below), "a finite number above 0, or None"),
            "change_below": (is_positive(self.change_below), "a finite number above 0, or None"),
            "patience": (self.patience >= 1, "at least 1"),
            "label_noise": (0 <= self.label_noise <= 1, "from 0 to 1"),
            "measure_size": (self.measure_size is None or self.measure_size >= 1, "at least 1"),
        }
        for name, (valid, what) in rules.items():
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {what}")


def is_positive(value: float | None) -> bool:
    """Whether an optional number is absent, or finite and above zero."""
    return value is None or 0 < value < math.inf


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the numbers of one training run; ``sam`` is one of `SAM`."""

    dataset: str
    model: str
    optimizer: str
    sam: str
    seed: int
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        """Raise ValueError for a variant that does not exist."""
        if self.sam not in SAM:
            raise ValueError(f"sam is {self.sam!r}; it must be one of {', '.join(SAM)}")

    @property
    def name(self) -> str:
        """Directory name of the run among others of its study."""
        variant = "" if self.sam == "none" else f"-{self.sam}"
        return f"{self.optimizer}{variant}-seed{self.seed}"

    def resolved(self) -> "RunConfig":
        """The same with the radius that it takes: the variant's own unless given, or None."""
        rho = None
        if self.sam != "none":
            own = inspect.signature(SHARPNESS_AWARE[self.sam]).parameters["rho"].default
            rho = own if self.settings.rho is None else self.settings.rho
        return replace(self, settings=replace(self.settings, rho=rho))


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old content or the new one, and nothing between."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; floats are the shortest decimals that read back exactly."""
    write_text(path, table.to_csv(index=False))


def claim(path: Path, config: dict[str, Any], *, fresh: bool = False) -> None:
    """Make ``path`` the directory of ``config``, or check that it already is.

    With ``fresh``, a directory that holds a run or study is emptied first. Raises RunError, and
    leaves everything as it is, for a directory of another configuration (naming the fields that
    differ) and for one that is not empty and holds neither run nor study.
    """
    file = path / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; the output must be a directory")
    if path.exists() and not file.exists() and any(path.iterdir()):
        raise RunError(f"{path} holds files but no config.json; choose an empty directory")
    if file.exists():
        if not {"dataset", "model", "settings"} <= set(read_config(path)):
            raise RunError(f"{file} is not that of a run or study; choose another directory")
        found, wanted = flat(read_config(path)), flat(config)
        differing = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
        if not differing and not fresh:
            return
        if not fresh:
            changes = ", ".join(f"{k} {found.get(k)!r} -> {wanted.get(k)!r}" for k in differing)
            raise RunError(
                f"{path} holds another configuration ({changes}); "
                "choose another directory, or start over with --fresh"
            )
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(config, indent=2) + "\n")


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the fields of nested ones beside its own."""
    parts = ({k: v} if not isinstance(v, dict) else flat(v) for k, v in config.items())
    return {k: v for part in parts for k, v in part.items()}


def read_config(path: Path) -> dict[str, Any]:
    """Configuration of a run or study directory; RunError if it is none."""
    file = path / "config.json"
    if not file.is_file():
        raise RunError(f"{path} is no run directory: it has no config.json")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise RunError(f"{file} is not valid JSON: {error}") from error


def read_run_config(path: Path) -> RunConfig:
    """Configuration of a single run; RunError if the directory holds something else."""
    found = read_config(path)
    try:
        return RunConfig(**{**found, "settings": Settings(**found["settings"])})
    except (KeyError, TypeError):
        raise RunError(
            f"{path} is not the directory of a single run (those of a study are in its runs folder)"
        ) from None
    except ValueError as error:
        raise RunError(f"{path / 'config.json'}: {error}") from None


def claim_run(path: Path, config: RunConfig, *, fresh: bool = False) -> None:
    """``claim`` for a single run."""
    claim(path, asdict(config), fresh=fresh)


def read_history(path: Path, last_epoch: int | None = None) -> pd.DataFrame:
    """Metrics of the first ``last_epoch`` epochs of a run, or all; RunError if there are fewer."""
    if last_epoch == 0:
        return pd.DataFrame(columns=list(HISTORY))
    file = path / "history.csv"
    if not file.is_file():
        raise RunError(f"{file} is missing although a checkpoint exists; start over with --fresh")
    table = pd.read_csv(file)
    if last_epoch is None:
        return table
    table = table[table["epoch"] <= last_epoch]
    if list(table["epoch"]) != list(range(1, last_epoch + 1)):
        raise RunError(f"{file} does not hold epochs 1 to {last_epoch}; start over with --fresh")
    return table


def save_state(path: Path, state: TrainState, history: pd.DataFrame) -> None:
    """Save the training state of a run, the history first, so that it is never behind."""
    write_table(path / "history.csv", history)
    name = f"epoch_{int(state.epoch):04d}"
    if state.converged or state.diverged:
        name = "converged" if state.converged else "diverged"
    target = path / "checkpoints" / name
    if not target.exists():
        checkpoint.save(target, state)


def latest_checkpoint(path: Path) -> Path | None:
    """The checkpoint to continue a run from: its end, or else the one of the latest epoch."""
    folder = path / "checkpoints"
    for name in ("converged", "diverged"):
        if (folder / name).is_dir():
            return folder / name
    epochs = [p for p in folder.glob("epoch_*") if p.name[6:].isdecimal()]  # no unfinished ones
    return max(epochs, default=None, key=lambda p: int(p.name[6:]))


def load_state(path: Path, like: TrainState) -> TrainState | None:
    """Latest training state of a run, None before its first checkpoint."""
    latest = latest_checkpoint(path)
    return None if latest is None else checkpoint.load(latest, like)


def read_sharpness(path: Path) -> pd.DataFrame:
    """Measurements of a run so far: measure, settings, value, error."""
    kinds = {"measure": str, "settings": str, "value": float, "error": float}
    file = path / "sharpness.csv"
    if not file.is_file():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    table = pd.read_csv(file, dtype=kinds)
    return table.assign(settings=table["settings"].fillna(""))


def row(path: Path) -> dict[str, Any]:
    """One row of runs.csv: configuration, end of training, and each measure with its error."""
    config = read_run_config(path)
    last, end = read_history(path).iloc[-1], latest_checkpoint(path)
    metrics = {name: float(last[name]) for name in HISTORY[1:]}
    table = {
        **{k: getattr(config, k) for k in ("dataset", "model", "optimizer", "sam")},
        "rho": config.settings.rho,
        "seed": config.seed,
        "epochs": int(last["epoch"]),
        "converged": end is not None and end.name == "converged",
        "diverged": end is not None and end.name == "diverged",
        **metrics,
        "gap": 100 * (metrics["train_accuracy"] - metrics["test_accuracy"]),
        "loss_gap": metrics["train_loss"] - metrics["test_loss"],
    }
    for record in read_sharpness(path).itertuples():
        table[record.measure] = record.value
        table[f"{record.measure}_error"] = record.error
    return table
