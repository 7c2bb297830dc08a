"""Runs that are trained on to more epochs than they were begun with: whether they are the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxsharp.core.choices import checked, construct
from jaxsharp.runs.config import RunConfig, Settings


def obstacle(found: Settings, wanted: Settings) -> str | None:
    """Why runs of settings cannot be trained on to the epochs of others; None if they can be.

    A warm-up and the averages count from the first epoch; a schedule ends with the last, so that
    with more of them every step has another rate.
    """
    if wanted.epochs < found.epochs:
        return "epochs can be added and not taken back"
    if wanted.epochs > found.epochs and found.schedule != "constant":
        return (
            f"schedule {found.schedule} depends on the number of epochs, so that with more of them "
            "these are other runs"
        )
    return None


def refusal(path: Path, found: Settings, wanted: Settings, advice: str) -> str:
    """What is said of a folder whose runs cannot be trained on to other epochs."""
    epochs = f"epochs {found.epochs} -> {wanted.epochs}"
    reason = obstacle(found, wanted)
    return f"{path} holds another configuration ({epochs}): {reason}; {advice}"


def with_epochs(run: RunConfig, other: RunConfig) -> RunConfig:
    """A run with the epochs of another."""
    return replace(run, settings=replace(run.settings, epochs=other.settings.epochs))


def extends(wanted: RunConfig, found: RunConfig) -> bool:
    """Whether a run is another one trained on, or the same."""
    alike = with_epochs(wanted, found) == found
    return alike and not obstacle(found.settings, wanted.settings)


def is_before(found: dict[str, Any], wanted: RunConfig) -> bool:
    """Whether what a config.json holds is the run that is wanted, or with fewer epochs."""
    try:
        return extends(wanted, checked(construct(RunConfig, found)))
    except ValueError:
        return False
