"""Checkpoints at losses that were lost: trained again, from the last intact one before them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsharp.measures.contract import Options
from jaxsharp.runs import directory, files
from jaxsharp.runs.claims import Warn, print_warning
from jaxsharp.runs.columns import epoch_of
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies import sweep
from jaxsharp.studies.checkpoints.choice import lost_at_losses
from jaxsharp.studies.workbench import Workbench
from jaxsharp.training.members import barrier, is_mine


def train_again(
    configs: list[RunConfig],
    paths: list[Path],
    bench: Workbench,
    *,
    layout: sweep.Layout = sweep.ANYHOW,
    made_from: Fingerprint | None = None,
    options: Options | None = None,
    report: Callable[[sweep.GroupProgress], Any] = lambda progress: None,
    warn: Warn = print_warning,
) -> None:
    """Make the checkpoints at losses that a trained group lost again, with the same bytes.

    A damaged one is renamed, and ``warn`` gets a line that names each. The others, the ends and
    what was measured stay as they are. `layout`, ``made_from``, ``options`` and ``report`` are as
    of `sweep.train`.
    """
    found = [lost_at_losses(path, c.settings) for c, path in zip(configs, paths, strict=True)]
    barrier()  # no process renames what another has not looked at
    for path, lost in zip(paths, found, strict=True):
        for saved, reason in lost.items() if is_mine(path.name) else ():
            aside = f"; it is now {files.set_aside(saved).name}" if saved.is_dir() else ""
            start = directory.latest_checkpoint(path, epoch_of(saved.name))
            warn(
                f"checkpoint {saved}, at the first epoch below a loss, cannot be read: {reason}"
                f"{aside}, and is trained again from {'the start' if start is None else start.name}"
            )
    barrier()
    if any(found):
        sweep.train(
            *(configs, paths, bench),
            save_every=max(config.settings.epochs for config in configs),
            layout=layout,
            made_from=made_from,
            options=options,
            report=report,
            lost=[[epoch_of(saved.name) for saved in lost] for lost in found],
        )
