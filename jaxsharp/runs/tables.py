"""What tables have of a run: a row with its configuration, its end, and what was measured."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import losses
from jaxsharp.runs.claims import read_run_config
from jaxsharp.runs.columns import ENDS, HISTORY, SHARPNESS, VARIED, epoch_name
from jaxsharp.runs.config import Settings
from jaxsharp.runs.directory import newest_history
from jaxsharp.runs.measurements import is_of, read_checkpoint_sharpness, read_sharpness


def row(
    path: Path,
    measures: Mapping[str, str | None] | None = None,
    optimizers: Mapping[str, Callable] = OPTIMIZERS,
    *,
    epoch: int | None = None,
) -> dict[str, Any]:
    """One row of runs.csv: configuration, end of training, and the record of each measure.

    Hyper-parameters are those that the run used; NaN is one that its optimizer does not have, or
    that one which is not in ``optimizers`` takes by itself. Accuracies and the gaps are fractions,
    losses nats; gaps are positive where the training data look better: of accuracies training -
    test, of losses test - training. ``converged`` is None without a rule for it. ``measures`` are
    those of a study, with their settings; a run may have others, which its table leaves out.
    Without them, the latest record of each counts. A run that was not trained in float32 has a
    column ``compute``. With an ``epoch`` before the last it is the row of the checkpoint there,
    at which it had not converged.
    """
    config = read_run_config(path)
    end, history = newest_history(path)
    name, measured_then = end.name, read_sharpness(path)
    if epoch is not None and epoch < len(history):
        name, earlier = epoch_name(epoch), read_checkpoint_sharpness(path)
        history = history[:epoch]
        measured_then = earlier[earlier["checkpoint"] == name]
    last = history.iloc[-1]
    metrics = {name: float(last[name]) for name in HISTORY[1:]}
    used = {name: getattr(config.settings, name) for name in VARIED} | config.used(optimizers)
    ends: dict[str, bool | None] = {each: name == each for each in ENDS}
    if not config.settings.judged:
        ends["converged"] = None
    table = {
        **{k: getattr(config, k) for k in ("dataset", "model", "optimizer", "sam")},
        **{name: math.nan if value is None else value for name, value in used.items()},
        "seed": config.seed,
        "epochs": int(last["epoch"]),
        **ends,
        **metrics,
        "gap": metrics["train_accuracy"] - metrics["test_accuracy"],
        "loss_gap": metrics["test_loss"] - metrics["train_loss"],
    }
    if config.settings.compute != Settings().compute:
        table["compute"] = config.settings.compute
    for record in measured_then.itertuples():
        if measures is not None and not is_of(measures, record.measure, record.settings):
            continue
        flags = {name: bool(getattr(record, name)) for name in ("finished", "exact")}
        measured = record._asdict() | flags
        table[record.measure] = record.value
        table |= {f"{record.measure}_{name}": measured[name] for name in list(SHARPNESS)[3:]}
    return table


def at_checkpoint(path: Path, found: dict[str, Any], epoch: int | None) -> dict[str, Any]:
    """A `row` at the end or after an epoch before, with the name of the checkpoint.

    And, for each loss at which the run was to be saved, whether this is the first epoch below it.
    """
    end, history = newest_history(path)
    limits = losses.thresholds(read_run_config(path).settings.save_losses)
    first = losses.first_below(history["train_loss"].to_numpy(), limits)
    here = epoch or len(history)
    name = end.name if here == len(history) else epoch_name(here)
    flags = {losses.column(limit): first.get(limit) == here for limit in limits}
    return {"checkpoint": name, **flags, **found}
