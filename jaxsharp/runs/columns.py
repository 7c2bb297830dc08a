"""What the tables of a run have: columns by name, and the names of its checkpoints."""

import re

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
