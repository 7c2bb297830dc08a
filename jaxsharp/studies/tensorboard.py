"""Losses and accuracies as TensorBoard scalars while a study runs; needs the extra tensorboard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsharp.runs.columns import HISTORY
from jaxsharp.studies.study import Progress, is_writer


class Scalars:
    """Writes the metrics of every epoch below a folder, one series a run, as a context manager.

    A run that is continued purges what was written of later epochs. Raises ModuleNotFoundError,
    with what to install, where tensorboardX is missing.
    """

    def __init__(self, folder: Path, followed: Sequence[str] = ()):
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "tensorboard needs tensorboardX: pip install 'jaxsharp[tensorboard]'"
            ) from error
        self.folder, self.make, self.followed = folder, SummaryWriter, followed
        self.writers = {}

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, *_) -> None:
        for writer in self.writers.values():
            writer.close()

    def update(self, progress: Progress) -> None:
        """Write the epoch that was just trained; runs that took no part in it are closed."""
        if not is_writer():
            return
        for name in [name for name in self.writers if progress.rows and name not in progress.rows]:
            self.writers.pop(name).close()
        for name, (epoch, *numbers) in progress.rows.items():
            metrics, followed = numbers[: len(HISTORY) - 1], numbers[len(HISTORY) - 1 :]
            if name not in self.writers:
                self.writers[name] = self.make(str(self.folder / name), purge_step=epoch)
            for metric, value in zip(HISTORY[1:], metrics, strict=True):
                split, _, kind = metric.partition("_")
                self.writers[name].add_scalar(f"{kind}/{split}", float(value), epoch)
            for column, value in zip(self.followed, followed, strict=True):
                if np.isfinite(value):  # not every epoch, nor every edge
                    self.writers[name].add_scalar(f"followed/{column}", float(value), epoch)
