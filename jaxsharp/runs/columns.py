"""What the tables of a run have: columns by name, and the names of its checkpoints."""

import io
import re
from pathlib import Path

import pandas as pd

from jaxsharp.runs.claims import RunError
from jaxsharp.training import trackers

HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
# Of a history, if they are followed.
FOLLOWED = trackers.columns_of(trackers.NAMES)
SHARPNESS = {
    "measure": str,
    "settings": str,
    "value": float,
    "error": float,
    "error_kind": str,
    "finished": int,  # 1 or 0, as exact: bool("False") is true
    "cost": int,
    "cost_unit": str,
    "examples": int,
    "directions": int,
    "exact": int,
}
EARLIER = {"checkpoint": str, **SHARPNESS}
MEASUREMENTS = {"sharpness.csv": SHARPNESS, "checkpoint_sharpness.csv": EARLIER}
ENDS = ("converged", "diverged")
VARIED = (
    *("rho", "momentum", "weight_decay", "decoupled_weight_decay"),
    *("learning_rate", "batch_size", "label_noise"),
)
# Names that no measure may have.
COLUMNS = (
    *(
        "dataset",
        "model",
        "optimizer",
        "sam",
        "average",
        "compute",
        *VARIED,
        "seed",
        "checkpoint",
        "epochs",
        *ENDS,
    ),
    *(*HISTORY[1:], "gap", "loss_gap"),
)
EPOCH = re.compile(r"epoch_[0-9]{4,9}")


def epoch_name(epochs: int) -> str:
    """Name of the checkpoint after so many epochs."""
    return f"epoch_{epochs:04d}"


def epoch_of(name: str | None) -> int:
    """The epochs that such a name says, 0 of no name."""
    return 0 if name is None else int(name.removeprefix("epoch_"))


def parse_history(text: str, saved: Path) -> pd.DataFrame:
    """The table that the history of a checkpoint was written from; RunError if it is none."""
    try:
        table = pd.read_csv(io.StringIO(text))
    except ValueError:
        table = pd.DataFrame()
    numbers = all(kind.kind in "if" for kind in table.dtypes)
    epochs = range(1, len(table) + 1)
    named = saved.name in (epoch_name(len(table)), *ENDS)
    own, followed = tuple(table)[: len(HISTORY)], tuple(table)[len(HISTORY) :]
    valid = own == HISTORY and set(followed) <= set(FOLLOWED) and numbers
    valid = valid and list(table["epoch"]) == list(epochs)
    if not (valid and epochs and named):
        raise RunError(
            f"{saved / 'history.csv'} is no history: it must have the columns {', '.join(HISTORY)} "
            "and those of what is followed, with numbers, and a row for each epoch from 1 to that "
            "of its checkpoint"
        )
    return table
