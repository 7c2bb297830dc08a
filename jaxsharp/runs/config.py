"""Configurations: everything that decides the numbers of one training run, and its name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from jaxsharp.core.choices import LARGEST, known, known_list, plain, shown
from jaxsharp.data.augment import steps_of
from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE, own_arguments
from jaxsharp.runs import losses
from jaxsharp.training import trackers
from jaxsharp.training.averages import AVERAGES
from jaxsharp.training.precision import COMPUTE
from jaxsharp.training.regimes import LAST_BATCHES, SCHEDULES

SAM = ("none", *SHARPNESS_AWARE)
# Settings that are arguments of a compiled program, so that its members may differ in them.
HYPER_PARAMETERS = ("learning_rate", "momentum", "weight_decay", "decoupled_weight_decay", "rho")


@dataclass(frozen=True)
class Settings:
    """How a run is trained."""

    epochs: int = 200
    """Epoch limit."""
    batch_size: int = 128
    """Examples a step."""
    last_batch: str = "drop"
    """Examples of an epoch that do not fill a batch: drop, or keep as a smaller one."""
    learning_rate: float | None = None
    """Learning rate instead of the optimizer's own."""
    momentum: float | None = None
    """Momentum instead of the optimizer's own."""
    weight_decay: float | None = None
    """Coupled weight decay instead of none."""
    decoupled_weight_decay: float | None = None
    """Decoupled weight decay, as in AdamW, instead of none."""
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
    loss: str | None = None
    """Loss of the outputs; None: cross_entropy for classes, squared_error for real numbers."""
    schedule: str = "constant"
    """Learning rate over the epochs: constant, linear, cosine, step or exponential."""
    warmup_epochs: int = 0
    """Epochs in which the learning rate rises from zero."""
    clip_norm: float | None = None
    """Norm to which gradients are clipped."""
    compute: str = "float32"
    """Forward and backward pass of training: float32 or bfloat16; all else is float32."""
    augment: str = "none"
    """Random changes of training images: crop, flip, cutout, or several as in crop_flip."""
    label_smoothing: float = 0.0
    """Part of each training label that is spread over all classes."""
    mixup: float = 0.0
    """Parameter of the beta distribution by which training examples are mixed; 0: they are not."""
    average: str = "none"
    """Average of the parameters that is evaluated and measured: none, ema or swa."""
    average_decay: float = 0.999
    """Decay a step of the exponential average (ema)."""
    average_after: int = 0
    """Epochs before the average begins; no run converges in them."""
    measure_size: int | None = None
    """Measure sharpness on the first N training examples instead of all."""
    save_losses: str | None = None
    """Save at the first epoch whose training loss is below each, as in 1,0.3,0.1, and measure."""
    track: str | None = None
    """Curvatures and measures to follow along training, separated by commas."""
    track_every: int = 1
    """Epochs from one time to the next that they are followed."""
    track_size: int | None = None
    """Follow them on the first N training examples instead of all."""

    def __post_init__(self) -> None:
        """Put losses in order."""
        object.__setattr__(self, "save_losses", losses.ordered(self.save_losses))

    @property
    def judged(self) -> bool:
        """Whether there is a rule that says when a run has converged."""
        return self.loss_below is not None or self.change_below is not None

    @property
    def tracked(self) -> tuple[str, ...]:
        """What is followed along training, each once."""
        return () if self.track is None else known_list("quantity", self.track, trackers.NAMES)

    def check(self) -> None:
        """Raise ValueError for a value that no run can have; the data set's limits come later."""
        momentum, decay, rho = self.momentum, self.weight_decay, self.rho
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "holdout": (self.holdout >= 0, "at least 0"),
            "train_size": (self.train_size is None or self.train_size >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (is_positive(self.learning_rate), "a finite number above 0"),
            "momentum": (momentum is None or 0 <= momentum < 1, "from 0 up to below 1"),
            "weight_decay": (decay is None or 0 <= decay < math.inf, "a finite number, at least 0"),
            "decoupled_weight_decay": (
                self.decoupled_weight_decay is None or 0 <= self.decoupled_weight_decay < math.inf,
                "a finite number, at least 0",
            ),
            "warmup_epochs": (0 <= self.warmup_epochs < self.epochs, "from 0 to below epochs"),
            "clip_norm": (is_positive(self.clip_norm), "a finite number above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "from 0 up to below 1"),
            "mixup": (0 <= self.mixup < math.inf, "a finite number, at least 0"),
            "average_decay": (0 <= self.average_decay < 1, "from 0 up to below 1"),
            "average_after": (0 <= self.average_after < self.epochs, "from 0 to below epochs"),
            "rho": (rho is None or 0 <= rho < math.inf, "a finite number, at least 0"),
            "loss_below": (is_positive(self.loss_below), "a finite number above 0, or None"),
            "change_below": (is_positive(self.change_below), "a finite number above 0, or None"),
            "patience": (self.patience >= 1, "at least 1"),
            "label_noise": (0 <= self.label_noise <= 1, "from 0 to 1"),
            "track_every": (1 <= self.track_every <= self.epochs, "from 1 to epochs"),
            "track_size": (self.track_size is None or self.track_size >= 1, "at least 1"),
            "measure_size": (self.measure_size is None or self.measure_size >= 1, "at least 1"),
        }
        for name, (valid, what) in rules.items():
            value = getattr(self, name)
            if not valid:
                raise ValueError(f"{name} is {value}; it must be {what}")
            if isinstance(value, int) and value > LARGEST:
                raise ValueError(f"{name} is {shown(value)}; it must be at most {LARGEST}")
        known("schedule", self.schedule, SCHEDULES)
        known("compute", self.compute, COMPUTE)
        known("last_batch", self.last_batch, LAST_BATCHES)
        known("average", self.average, AVERAGES)
        steps_of(self.augment)
        losses.thresholds(self.save_losses)
        self.check_tracked()
        if self.loss is not None:
            plain("loss", self.loss)
        if self.change_below is not None and self.patience > self.epochs:
            raise ValueError(
                f"patience is {self.patience}; of {self.epochs} epochs at most {self.epochs} "
                "can change the loss by less than change_below"
            )

    def check_tracked(self) -> None:
        """Raise ValueError for what cannot be followed, or where nothing is."""
        for name in ("track_every", "track_size"):
            value = getattr(self, name)
            if not self.tracked and value != getattr(Settings(), name):
                raise ValueError(f"{name} is {value}, and nothing is followed; give track")

    def check_average(self) -> None:
        """Raise ValueError for what an average would take where there is none."""
        for name in ("average_decay", "average_after"):
            value = getattr(self, name)
            if self.average == "none" and value != getattr(Settings(), name):
                raise ValueError(
                    f"{name} is {value} without an average that would take it; average must be "
                    "ema or swa"
                )


def is_positive(value: float | None) -> bool:
    """Whether an optional number is absent, or finite and above zero."""
    return value is None or 0 < value < math.inf


# Settings that a grid may vary, in the order in which a run's name has them.
SHORT_NAMES = {
    "learning_rate": "lr",
    "rho": "rho",
    "momentum": "m",
    "weight_decay": "wd",
    "decoupled_weight_decay": "dwd",
    "batch_size": "bs",
    "label_noise": "noise",
    "average": "",
}


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
            raise ValueError(f"sam is {shown(self.sam)}; it must be one of {', '.join(SAM)}")

    def check(self) -> None:
        """Raise ValueError for what no run can have.

        Data sets, networks and optimizers may be the caller's own: of their names only that they
        are plain is checked.
        """
        plain("dataset", self.dataset)
        plain("model", self.model)
        plain("optimizer", self.optimizer)
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"seed is {shown(self.seed)}; it must be from 0 to {2**32 - 1}, "
                "beyond which seeds repeat"
            )
        self.settings.check()
        if self.sam == "none" and self.settings.rho is not None:
            raise ValueError(
                f"rho is {self.settings.rho} without a sharpness-aware variant that would take it; "
                f"sam must be one of {', '.join(SHARPNESS_AWARE)}"
            )

    @property
    def name(self) -> str:
        """Directory name of the run among others of its study, which differ in what it holds.

        A setting of `SHORT_NAMES` is named where it is not the default (rho: the variant's own).
        """
        taken = self.resolved().settings
        usual = replace(Settings(), rho=self.own_rho)
        parts = [self.optimizer, *([] if self.sam == "none" else [self.sam])]
        for field, short in SHORT_NAMES.items():
            value = getattr(taken, field)
            if value != getattr(usual, field):
                parts.append(short + str(value).removesuffix(".0"))
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def label(self) -> str:
        """Optimizer and sharpness-aware variant, as in a table."""
        return self.optimizer if self.sam == "none" else f"{self.optimizer} + {self.sam}"

    @property
    def own_rho(self) -> float | None:
        """The radius that the variant takes unless one is given; None without a variant."""
        return None if self.sam == "none" else own_arguments(SHARPNESS_AWARE[self.sam])["rho"]

    def used(self, optimizers: Mapping[str, Callable] = OPTIMIZERS) -> dict[str, float]:
        """The `HYPER_PARAMETERS` that the run has: those given, others the optimizer's own.

        One that it does not have, such as the momentum of plain SGD, is left out, and so are the
        own ones of an optimizer that is not in ``optimizers``.
        """
        factory = optimizers.get(self.optimizer)
        own = {} if factory is None else own_arguments(factory)
        own = own | {"rho": self.own_rho}
        given = {name: getattr(self.settings, name) for name in HYPER_PARAMETERS}
        found = {n: own.get(n) if value is None else value for n, value in given.items()}
        return {name: value for name, value in found.items() if value is not None}

    def resolved(self) -> "RunConfig":
        """The same with the radius that it takes: the variant's own unless given, or None."""
        rho = self.own_rho
        if rho is not None and self.settings.rho is not None:
            rho = self.settings.rho
        return replace(self, settings=replace(self.settings, rho=rho))


def labels(configs: Sequence[RunConfig], *, seeds: bool = True) -> list[str]:
    """What tells each of several runs from the others: the fields in which they differ.

    Of a single run, or equal ones: optimizer, variant and seed. Seeds are named if ``seeds``.
    """
    rows = []
    for config in configs:
        taken = asdict(config.resolved().settings)
        taken["rho"] = None if taken["rho"] == config.own_rho else taken["rho"]
        row = {"dataset": config.dataset, "model": config.model, "label": config.label}
        rows.append(row | taken | ({"seed": config.seed} if seeds else {}))
    differing = [name for name in rows[0] if any(row[name] != rows[0][name] for row in rows)]

    def said(name, value):
        if name in ("dataset", "model", "label"):
            return value
        return f"{name.replace('_', ' ')} {'default' if value is None else value}"

    names = differing or ["label", "seed"][: 1 + seeds]
    return [", ".join(said(name, row[name]) for name in names) for row in rows]
