"""What the pages of results say is what their tables have."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from jaxsharp.analysis import correlation, geometric_mean_interval, mean_interval

RESULTS = Path(__file__).parents[1] / "results"


def page(folder):
    """The text of a page, without its line breaks, and its table of runs."""
    text = (RESULTS / folder / "README.md").read_text()
    return re.sub(r"\s+", " ", text), pd.read_csv(RESULTS / folder / "runs.csv")


def printed(found):
    """A coefficient as pages have it."""
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


@pytest.mark.parametrize(
    ("folder", "more"),
    [("random_labels", ()), ("random_labels-lenet", ("relative_flatness",))],
)
def test_no_measure_follows_the_gap_within_a_level_of_noise(folder, more):
    text, runs = page(folder)
    evaluated = pd.read_csv(RESULTS / folder / "evaluation.csv").set_index("measure")
    assert len(runs) == 55 and runs["converged"].all()
    common = ("minimum_sharpness", "hessian_trace", "top_eigenvalue", "adaptive_perturbation")
    for name in (*common, "parameter_norm", "distance_from_initialization", *more):
        words = name.replace("_", " ").replace("hessian", "Hessian")
        found = correlation(runs, name, "gap", ["label_noise"])
        given = evaluated.loc[name]
        cells = [printed(found.raw), printed(found.within)]
        ends = (given[f"given_all{end}"] for end in ("", "_low", "_high"))
        cells += ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*ends), given["verdict"]]
        assert f"| {words} | {' | '.join(cells)} |" in text
    taken = [name.removesuffix("_finished") for name in runs if name.endswith("_finished")]
    assert len(taken) == 13
    assert "0 of 13 measures predict" in (RESULTS / folder / "evaluation.md").read_text()
    for name in set(taken) - {"parameter_norm"} if more else taken:
        within = correlation(runs, name, "gap", ["label_noise"]).within
        assert within.low < 0 < within.high


def test_minimum_sharpness_by_the_level_of_noise():
    means = [
        page(folder)[1]
        .groupby("label_noise")["minimum_sharpness"]
        .apply(lambda part: geometric_mean_interval(part).mean)
        for folder in ("random_labels", "random_labels-lenet")
    ]
    assert means[0][0.0] == pytest.approx(17.9, abs=0.05)
    assert means[0][0.3:].between(28, 31).all()
    assert means[1].between(12.8, 20.2).all()
    assert means[1][0.0] == pytest.approx(17.3, abs=0.05)
    assert means[1][1.0] == pytest.approx(13.9, abs=0.05)


def test_sam_lowers_the_largest_eigenvalue_at_equal_loss():
    ledger = (RESULTS / "README.md").read_text()
    runs = pd.read_csv(RESULTS / "digits" / "runs.csv")
    logs = np.log(runs.set_index(["optimizer", "seed", "sam"])["top_eigenvalue"]).unstack()
    for name, words in {"sgd": "SGD", "adam": "Adam", "adashift": "AdaShift"}.items():
        assert runs[runs["optimizer"] == name]["converged"].all()
        found = geometric_mean_interval(np.exp((logs["sam"] - logs["none"])[name]))
        text = f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
        assert text in ledger and f"{words}" in ledger


def test_learning_rate_and_batch_size():
    text, runs = page("learning_rate_batch_size")
    assert len(runs) == 60 and runs["converged"].sum() == 17
    for (_, effect, *_), part in runs.groupby(
        ["optimizer", "effect", "learning_rate", "batch_size"]
    ):
        found = mean_interval(part["study_b_sharpness"])
        cell = rf"{found.mean:.3g}0* \[{found.low:.3g}0*, {found.high:.3g}0*\]"
        assert re.search(f"{cell} \\| {part['converged'].sum()}/3", text), (effect, cell)
    rates = runs[(runs["effect"] == "learning_rate") & (runs["batch_size"] == 128)]
    for optimizer, least in (("adagrad", 0), ("sgd", 1e-3)):
        seeds = rates[(rates["optimizer"] == optimizer) & (rates["learning_rate"] >= least)]
        for _, seed in seeds.groupby("seed"):
            assert seed.sort_values("learning_rate")["study_b_sharpness"].is_monotonic_decreasing
    untrained = runs[(runs["optimizer"] == "sgd") & (runs["batch_size"] == 1000)]
    assert untrained["converged"].all() and (untrained["train_accuracy"] < 0.15).all()


def test_the_published_solver_stops_short():
    folder = RESULTS / "minimum_sharpness_solver"
    text, table = (folder / "README.md").read_text(), pd.read_csv(folder / "solutions.csv")
    assert len(table) == 12 and (table["duality_gap"] < 1e-14 * table["minimum"]).all()
    for column, steps in {"published": "10,000 (published)", "published_100": "1,000,000"}.items():
        for model, words in {"mlp": "MLP", "simple_batch": "SimpleBatch"}.items():
            part = table[table["model"] == model]
            ratio, digits = part[column] / part["minimum"], 3 if model == "mlp" else 2
            numbers = " | ".join(
                f"{x:.{digits}f}" for x in (ratio.min(), ratio.median(), ratio.max())
            )
            tau = scipy.stats.kendalltau(part[column], part["minimum"]).statistic
            assert f"| {words} | {steps} | {numbers} | {tau:.2f} |" in text
            assert (ratio > 1).all()


def test_no_peak_of_memory_is_above_what_is_allowed():
    table, ledger = (RESULTS / "memory" / "counts.csv"), (RESULTS / "README.md").read_text()
    text, table = (RESULTS / "memory" / "README.md").read_text(), pd.read_csv(table)
    share = table["peak_mib"] / table["allowed_mib"]
    assert len(table) == 64 and share.max() < 1
    assert sorted(table["members"].unique()) == [1, 4, 16, 64]
    assert set(table["plan"]) == {"cpu", "accelerator"}
    assert f"the largest share is\n{share.max():.2f}." in text
    assert f"each of 64 does; the largest peak is {share.max():.2f} of what is allowed" in ledger
    for row in table.itertuples():
        assert f"{row.peak_mib:.3g} of {row.allowed_mib:.3g}" in text


def test_sam_lowers_the_ratio_to_the_fifth_eigenvalue():
    text, runs = page("sam_spectrum")
    ledger = (RESULTS / "README.md").read_text()
    assert len(runs) == 60
    sure = {"sgd": "SGD", "adam": "Adam", "adashift": "AdaShift", "adabound": "AdaBound"}
    assert set(runs[runs["converged"]]["optimizer"]) == set(sure) and runs["converged"].sum() == 40
    indexed = runs.set_index(["optimizer", "seed", "sam"])
    logs = np.log(indexed[["top_eigenvalue", "eigenvalue_ratio"]]).unstack()
    for name, words in sure.items():
        top, ratio = (
            geometric_mean_interval(np.exp(logs[m]["sam"][name] - logs[m]["none"][name]))
            for m in ("top_eigenvalue", "eigenvalue_ratio")
        )
        both = np.exp(logs["eigenvalue_ratio"].loc[name].mean())
        cells = [f"{f.mean:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in (top, ratio)]
        row = f"| {words} | {cells[0]} | {both['none']:.2f}, {both['sam']:.2f} | {cells[1]} |"
        assert row in text and cells[1] in ledger


OPTIMIZERS = {"sgd": "SGD", "heavy_ball": "heavy ball", "adagrad": "Adagrad", "adam": "Adam"}
OPTIMIZERS |= {"adashift": "AdaShift", "adabound": "AdaBound"}


def with_and_without(runs, *kept):
    """Logarithms of minimum sharpness and gaps, a column with SAM and one without."""
    indexed = runs.set_index(["optimizer", *kept, "seed", "sam"])
    assert runs["converged"].all() and (runs["train_loss"] < 0.1).all()
    return np.log(indexed["minimum_sharpness"]).unstack(), indexed["gap"].unstack()


def change(found):
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def at_losses(folder):
    """The runs at each loss, by the words that pages have for it."""
    every = pd.read_csv(RESULTS / folder / "checkpoints.csv").assign(converged=True)
    return {
        "below 1": every[every["first_below_1"]],
        "below 0.3": every[every["first_below_0.3"]],
        "the end, below 0.1": every[every["checkpoint"] == "converged"],
    }


def test_study_a_at_equal_loss():
    """SAM lowers minimum sharpness, and the gap stays; nothing says that one follows the other."""
    text, runs = page("study_a")
    ledger = (RESULTS / "README.md").read_text()
    assert len(runs) == 72
    logs, gaps = with_and_without(runs, "dataset")
    below = 0
    for name, words in OPTIMIZERS.items():
        cells = []
        for dataset in ("fashion_mnist", "cifar10"):
            at = (name, dataset)
            ratio = geometric_mean_interval(np.exp((logs["sam"] - logs["none"])[at]))
            changed = mean_interval((gaps["sam"] - gaps["none"])[at])
            assert 0.435 < ratio.mean < 0.765 and changed.low < 0 < changed.high
            below += ratio.high < 1
            cells += [f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]", change(changed)]
        assert f"| {words} | {' | '.join(cells)} |" in text
    assert below == 11
    for words, part in at_losses("study_a").items():
        found = [
            printed(correlation(rows, "minimum_sharpness", "gap", ["optimizer", "sam"]).raw)
            for _, rows in part.groupby("dataset", sort=False)
        ]
        assert f"| {words} | {' | '.join(found)} |" in text
    assert all(cell in ledger for cell in found)


@pytest.mark.parametrize(
    ("folder", "flatter", "ends", "cells"),
    [
        (
            "study_a-10000",
            set(OPTIMIZERS),
            (0.395, 0.645),
            ("+0.33 [-0.05, +0.66]", "-0.51 [-0.72"),
        ),
        (
            *("study_a-10000-cifar10", {"sgd", "adagrad", "adam"}, (0.585, 1.315)),
            ("+0.38 [+0.04, +0.67]", "+0.42 [+0.18, +0.63]"),
        ),
    ],
)
def test_study_a_on_ten_times_as_many_images(folder, flatter, ends, cells):
    """The gap shrinks too; no measure is shown to predict it."""
    text, runs = page(folder)
    ledger = (RESULTS / "README.md").read_text()
    assert len(runs) == 36 and runs["epochs"].between(7, 16).all() == ("cifar10" in folder)
    logs, gaps = with_and_without(runs)
    accuracies = runs.set_index(["optimizer", "seed", "sam"])["test_accuracy"].unstack()
    changes = [table["sam"] - table["none"] for table in (gaps, accuracies)]
    for name, words in OPTIMIZERS.items():
        ratio = geometric_mean_interval(np.exp((logs["sam"] - logs["none"])[name]))
        assert ends[0] < ratio.mean < ends[1] and (ratio.high < 1) == (name in flatter)
        row = [change(mean_interval(each[name])) for each in changes]
        ratio = f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        assert f"| {words} | {ratio} | {' | '.join(row)} |" in text
    means = [mean_interval(each.groupby("seed").mean()) for each in changes]
    assert f"| mean of the six | - | {' | '.join(map(change, means))} |" in text
    shrinks = tuple(f"{-x:.3f}" for x in (means[0].mean, means[0].high, means[0].low))
    assert "{} [{}, {}]".format(*shrinks) in ledger and float(shrinks[1]) > 0
    for words, part in at_losses(folder).items():
        found = correlation(part, "minimum_sharpness", "gap", ["optimizer", "sam"]).raw
        assert f"| {words} | {printed(found)} |" in text
    assert printed(found) in ledger
    evaluated = (RESULTS / folder / "evaluation.md").read_text()
    assert "0 of 4 measures predict gap" in evaluated
    assert all(cell in evaluated and cell in text for cell in cells)


def test_no_signal_loses_anything():
    tries = pd.read_csv(RESULTS / "faults-signals" / "tries.csv")
    assert tries.groupby("fault").size().to_dict() == {"early": 50, "late": 50}
    assert (tries["as_expected"] == "yes").all() and not tries.duplicated(["fault", "seed"]).any()
    how = r"SIG(INT|TERM|HUP)(: [12] lines?, then same tables|: it had ended| as Python started.*)"
    assert tries["ending"].str.fullmatch(how).all()
    ledger = (RESULTS / "README.md").read_text()
    assert tries["ending"].str.contains("as Python started").sum() == 1
    assert "nothing in 100 of 100 tries, at most two lines each; one of them came while" in ledger


def test_a_residual_network_trains():
    text = (RESULTS / "resnet_20" / "README.md").read_text()
    history = pd.read_csv(RESULTS / "resnet_20" / "history.csv")
    for row in history.itertuples():
        numbers = (row.train_loss, row.train_accuracy, row.test_loss, row.test_accuracy)
        assert f"| {row.epoch} | {' | '.join(f'{x:.3f}' for x in numbers)} |" in text
    assert f"annealed to 0: {100 * history['test_accuracy'].iloc[-1]:.1f} %" in text


def test_sharpness_falls_with_the_learning_rate_and_the_gap_rises():
    text, runs = page("learning_rates")
    ledger = (RESULTS / "README.md").read_text()
    assert len(runs) == 18 and sorted(runs[~runs["converged"]]["learning_rate"]) == [0.01] * 3
    high, low = (runs[runs["learning_rate"] == rate].set_index("seed") for rate in (0.4, 0.02))
    rise = mean_interval(high["gap"] - low["gap"])
    rise = f"{rise.mean:.3f} [{rise.low:.3f}, {rise.high:.3f}]"
    assert f"by {rise}" in text and ledger.count(f"the gap rises by {rise}") == 2
    names = [name.removesuffix("_finished") for name in runs if name.endswith("_finished")]
    assert len(names) == 6
    for name in names:
        ratio = geometric_mean_interval(high[name] / low[name])
        cells = f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        taus = [correlation(runs, name, of, ["learning_rate"]) for of in ("learning_rate", "gap")]
        rate, gap = (f"{found.raw.value:+.2f}" for found in taus)
        assert f"| {name} | {cells} | {rate} | {gap} |" in text
        if name in ("minimum_sharpness", "apgd_linf_adaptive"):
            assert f"to {cells}" in ledger
