"""Study B: how do learning rate, batch size and optimizer change the sharpness that is reached?

    python experiments/learning_rate_batch_size.py --data-dir DIR

MLP_1 on CIFAR-10, normalized by channel: seven learning rates at batch size 128, twelve batch sizes
at learning rate 0.0001, SGD and AdaGrad, six seeds: 216 models, those at both 128 and 0.0001 being
a part of both effects. A run ends when its loss changes by less than 0.001 in five consecutive
epochs, or unconverged after `--epochs`; a point of which a run has not converged is hollow.
Sharpness is study B's: mean rise of the loss over 49 single directions at distance 5, statistics
recomputed. Headline intervals are between seeds; those of the original, which take the 49
directions of all seeds for independent, stand beside them.

Each effect of an optimizer is a study in a folder, and a JSON file beside, such as
MLP_1_AdaGrad_LearningRate.json, as the original has it: an effect whose file exists is not run
again; delete it to do so. Batches are drawn anew in every epoch, unlike the original's, the last of
an epoch may be smaller, and one that is larger than the data is all of them.

DIR holds the official CIFAR-10 files; without its test file, `--holdout 10000` evaluates on the
last training examples instead. On two CPU cores the whole takes days: `--train-size`, `--seeds`,
`--epochs`, `--learning-rates`, `--batch-sizes` choose a part. `--smoke` takes a few digits.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tyro
from scipy import special, stats

from jaxsharp.analysis import canvas, mean_interval, side_by_side, summarize
from jaxsharp.cli import main
from jaxsharp.core.choices import known_list
from jaxsharp.data import DATASETS
from jaxsharp.runs import files

MEASURE = "study_b_sharpness"
OPTIMIZERS = {"sgd": "SGD", "adagrad": "AdaGrad"}
EFFECTS = {"learning_rate": "LearningRate", "batch_size": "BatchSize"}
LEARNING_RATES = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)
BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 50000)
# What a run keeps while the other is varied.
KEPT = {"learning_rate": "--batch-size 128", "batch_size": "--learning-rate 0.0001"}
COLUMNS = [
    *("optimizer", "learning_rate", "batch_size", "seed", "epochs", "converged", "diverged"),
    *("train_loss", "train_accuracy", "test_loss", "test_accuracy"),
    *(MEASURE, f"{MEASURE}_error", f"{MEASURE}_directions"),
]


class Plan(NamedTuple):
    """What decides the numbers of an effect, but for its optimizer."""

    dataset: str
    values: dict[str, tuple]
    seeds: int
    epochs: int
    change_below: float
    patience: int
    train_size: int | None
    holdout: int

    def options(self, optimizer: str, effect: str) -> list[str]:
        """Those of `jaxsharp study`."""
        values = ",".join(map(str, self.values[effect]))
        size = [] if self.train_size is None else ["--train-size", str(self.train_size)]
        return [
            *("--dataset", self.dataset, "--model", "mlp_1", "--holdout", str(self.holdout), *size),
            *("--optimizers", optimizer, "--sam", "none", "--seeds", str(self.seeds)),
            *("--vary", f"{effect}={values}", *KEPT[effect].split(), "--last-batch", "keep"),
            *("--epochs", str(self.epochs), "--loss-below", "None"),
            *("--change-below", str(self.change_below), "--patience", str(self.patience)),
            *("--measures", MEASURE),
        ]


def content(runs: pd.DataFrame, optimizer: str, effect: str, options: list[str]) -> dict[str, Any]:
    """What the file of an effect holds: its settings, its runs, and the statistics of each value.

    Both intervals are of the runs that did not diverge; ``models`` counts those, ``converged`` the
    part of them that had.
    """
    rows = []
    for value, all_seeds in runs.groupby(effect, sort=True):
        group = all_seeds[~all_seeds["diverged"].astype(bool)]
        row = {"value": value, "models": len(group), "converged": int(group["converged"].sum())}
        rows.append(
            row
            | {"between_seeds": interval(mean_interval(group[MEASURE])[:3])}
            | {"seeds_and_trials": interval(pooled(group))}
        )
    names = {"network": "MLP_1", "optimizer": OPTIMIZERS[optimizer], "effect": EFFECTS[effect]}
    records = json.loads(runs[COLUMNS].to_json(orient="records", double_precision=15))
    return names | {"options": options, "statistics": rows, "runs": records}


def pooled(group: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over seeds and trials and its 95 % interval, as if all trials were independent.

        s^2 = (sum_i (n_i - 1) n_i e_i^2 + n_i (m_i - m)^2) / (N - 1),    m +- t s / sqrt(N)

    from the mean m_i of the n_i trials of each seed and its standard error e_i; N = sum_i n_i.
    """
    means, errors = (group[name].to_numpy(float) for name in (MEASURE, f"{MEASURE}_error"))
    counts = group[f"{MEASURE}_directions"].to_numpy(float)
    total = counts.sum()
    if total < 2:
        return (math.nan,) * 3
    mean = (counts * means).sum() / total
    squares = ((counts - 1) * counts * errors**2 + counts * (means - mean) ** 2).sum()
    half = special.stdtrit(total - 1, 0.975) * np.sqrt(squares / (total - 1) / total)
    return mean, mean - half, mean + half


def interval(found: tuple[float, ...]) -> dict[str, float | None]:
    """Mean and ends as JSON has them, null where there is none."""
    names = ("mean", "low", "high")
    return {n: float(v) if np.isfinite(v) else None for n, v in zip(names, found, strict=True)}


def trends(runs: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of sharpness with each setting: of each seed, then its mean over the seeds.

    Over all runs that did not diverge, and over the converged ones alone.
    """
    rows = []
    for (effect, optimizer), part in runs.groupby(["effect", "optimizer"], sort=False):
        good = part[~part["diverged"].astype(bool)]
        for what, kept in (("all", good), ("converged", good[good["converged"].astype(bool)])):
            taus = [
                stats.kendalltau(seed[effect], seed[MEASURE]).statistic
                for _, seed in kept.groupby("seed")
                if seed[effect].nunique() > 1
            ]
            found = mean_interval(taus, within=(-1, 1))
            row = {"effect": effect, "optimizer": optimizer, "runs": what, "num": len(kept)}
            rows.append(row | {"tau": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def draw(runs: pd.DataFrame, out: Path, formats: tuple[str, ...]) -> None:
    """Both layouts of the original: a file an effect and optimizer, and all in two panels."""
    runs = runs.assign(optimizer=runs["optimizer"].map(OPTIMIZERS))
    summaries = {
        effect: summarize(part, ["optimizer", effect], {MEASURE: (-math.inf, math.inf)})
        for effect, part in runs.groupby("effect", sort=True)
    }
    canvas.save_as(side_by_side(summaries, MEASURE), out / "sharpness", formats)
    for effect, optimizer in (
        runs[["effect", "optimizer"]].drop_duplicates().itertuples(index=False)
    ):
        table = {effect: summaries[effect]}
        drawn = side_by_side(table, MEASURE, optimizers=[optimizer])
        canvas.save_as(drawn, out / f"MLP_1_{optimizer}_{EFFECTS[effect]}", formats)


def run_effect(plan: Plan, optimizer: str, effect: str, out: Path, data_dir: Path | None) -> dict:
    """The content of an effect's file, which is made unless it is there."""
    name = f"MLP_1_{OPTIMIZERS[optimizer]}_{EFFECTS[effect]}"
    file, options = out / f"{name}.json", plan.options(optimizer, effect)
    if file.exists():
        found = json.loads(file.read_text())
        if found["options"] != options:
            raise SystemExit(
                f"{file} was made with {' '.join(found['options'])}; this is "
                f"{' '.join(options)}: delete the file, or take another --out"
            )
        print(f"{file} is there, and {name} not run again")
        return found
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    main(["study", *options, *where, "--out", str(out / name)])
    found = content(pd.read_csv(out / name / "runs.csv"), optimizer, effect, options)
    files.write_text(file, json.dumps(found, indent=1) + "\n")
    return found


def learning_rate_batch_size(
    *,
    out: Path = Path("runs/learning_rate_batch_size"),
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS),
    effects: tuple[str, ...] = tuple(EFFECTS),
    learning_rates: tuple[float, ...] = LEARNING_RATES,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    seeds: int = 6,
    epochs: int = 2000,
    change_below: float = 1e-3,
    patience: int = 5,
    train_size: int | None = None,
    holdout: int = 0,
    data_dir: Path | None = None,
    figures: str = "png",
    smoke: bool = False,
) -> None:
    """Run study B, effect by effect.

    Args:
        out: Folder of the studies, the JSON files, the joined runs.csv and the figures.
        optimizers: Of sgd, adagrad.
        effects: Of learning_rate, batch_size.
        learning_rates: At batch size 128.
        batch_sizes: At learning rate 0.0001.
        seeds: Runs of each combination.
        epochs: Epoch limit, at which a run ends unconverged.
        change_below: Converged once the training loss changes by less in `patience` epochs.
        patience: Consecutive epochs for change-below.
        train_size: Training examples, a stratified part.
        holdout: Evaluate on the last N training examples instead of the test set.
        data_dir: Directory with the official files of CIFAR-10.
        figures: Formats of the figures, separated by commas: png, pdf, svg.
        smoke: A few digits, two values of each setting, few epochs.
    """
    for given, valid in ((optimizers, OPTIMIZERS), (effects, EFFECTS)):
        if unknown := sorted(set(given) - set(valid)):
            raise SystemExit(f"unknown {unknown[0]}; valid are {', '.join(valid)}")
    formats = known_list("figure format", figures, canvas.FORMATS)
    dataset = "digits" if smoke else "cifar10"
    if smoke:
        epochs, patience, train_size = min(epochs, 3), 2, 150
        learning_rates, batch_sizes = (1e-4, 0.1), (32, 50000)
    examples = train_size or DATASETS[dataset].train_size - holdout
    sizes = tuple(dict.fromkeys(min(size, examples) for size in batch_sizes))
    values = {"learning_rate": learning_rates, "batch_size": sizes}
    rule = (change_below, patience)
    plan = Plan(dataset, values, seeds, epochs, *rule, train_size, holdout)
    tables = []
    for optimizer in optimizers:
        for effect in effects:
            found = run_effect(plan, optimizer, effect, out, data_dir)
            tables.append(pd.DataFrame(found["runs"]).assign(effect=effect))
    runs = pd.concat(tables, ignore_index=True)
    files.write_table(out / "runs.csv", runs[["effect", *COLUMNS]])
    draw(runs, out, formats)
    found = trends(runs)
    files.write_table(out / "trends.csv", found)
    print(found.to_string(index=False))


if __name__ == "__main__":
    tyro.cli(learning_rate_batch_size)
