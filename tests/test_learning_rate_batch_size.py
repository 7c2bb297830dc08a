"""Study B's files: what they say of runs, and that what is there is not run again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments import learning_rate_batch_size as study_b

TRIALS = 49
SIZES = "MLP_1_{}_BatchSize.json"
RATES = "MLP_1_{}_LearningRate.json"


def trials(value, seed, slope):
    """Rises of the loss in 49 directions: of a seed's own level, falling with the value."""
    rng = np.random.default_rng([seed, int(1e6 * value)])
    return 0.1 - slope * np.log(value) + 0.02 * rng.normal() + 0.01 * rng.normal(size=TRIALS)


@pytest.fixture
def called(monkeypatch):
    """The arguments of each study that is run; its runs are made up, the last diverged."""
    found = []

    def main(arguments):
        found.append(arguments)
        options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        effect, _, values = options["--vary"].partition("=")
        rows = []
        for value in map(float, values.split(",")):
            for seed in range(int(options["--seeds"])):
                rise = trials(value, seed, 0.01 if effect == "learning_rate" else -0.01)
                row = dict.fromkeys(study_b.COLUMNS, 1.0) | {effect: value, "seed": seed}
                row |= {"optimizer": options["--optimizers"], "diverged": False}
                row |= {"converged": value > 1e-4, study_b.MEASURE: rise.mean()}
                row[f"{study_b.MEASURE}_error"] = rise.std(ddof=1) / TRIALS**0.5
                rows.append(row | {f"{study_b.MEASURE}_directions": TRIALS})
        rows[-1] |= {"diverged": True, "converged": False, study_b.MEASURE: np.nan}
        folder = Path(options["--out"])
        folder.mkdir(parents=True)
        pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)

    monkeypatch.setattr(study_b, "main", main)
    return found


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(study_b, "draw", lambda *_: None)


def run(out, **options):
    study_b.learning_rate_batch_size(out=out, **{"seeds": 3, "holdout": 10000, **options})


def test_the_whole_protocol_is_that_of_the_study(tmp_path, called, undrawn):
    run(tmp_path, seeds=6, holdout=0)
    assert len(called) == 4
    for arguments, (optimizer, effect) in zip(
        called, [(o, e) for o in ("sgd", "adagrad") for e in ("rate", "size")], strict=True
    ):
        options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        assert (options["--optimizers"], options["--seeds"]) == (optimizer, "6")
        rule = [options[f"--{name}"] for name in ("change-below", "patience", "loss-below")]
        assert rule == ["0.001", "5", "None"]
        assert (options["--dataset"], options["--model"]) == ("cifar10", "mlp_1")
        assert options["--measures"] == "study_b_sharpness"
        name, _, values = options["--vary"].partition("=")
        if effect == "rate":
            assert (name, options["--batch-size"]) == ("learning_rate", "128")
            assert values == "0.0001,0.0005,0.001,0.005,0.01,0.05,0.1"
        else:
            assert (name, float(options["--learning-rate"])) == ("batch_size", 1e-4)
            sizes = [2**i for i in range(5, 16)]
            assert values == ",".join(map(str, [*sizes, 50000]))


def test_a_file_has_both_intervals_and_who_converged(tmp_path, called, undrawn):
    run(tmp_path)
    found = json.loads((tmp_path / RATES.format("AdaGrad")).read_text())
    assert (found["network"], found["optimizer"]) == ("MLP_1", "AdaGrad")
    assert found["effect"] == "LearningRate" and found["options"] == called[2][1:-2]
    counts = [(row["models"], row["converged"]) for row in found["statistics"]]
    assert counts == [(3, 0), *[(3, 3)] * 5, (2, 2)]
    assert [run["converged"] for run in found["runs"][:4]] == [False] * 3 + [True]
    for row in found["statistics"][:-1]:
        drawn = np.stack([trials(row["value"], seed, 0.01) for seed in range(3)])
        for name, values in (
            ("between_seeds", drawn.mean(1)),
            ("seeds_and_trials", drawn.ravel()),
        ):
            low, high = stats.t.interval(0.95, values.size - 1, values.mean(), stats.sem(values))
            expected = {"mean": values.mean(), "low": low, "high": high}
            assert row[name] == pytest.approx(expected, rel=1e-9)
    assert found["statistics"][-1]["between_seeds"]["low"] is None  # of two seeds


@pytest.mark.slow
def test_what_is_there_is_not_run_again(tmp_path, called):
    run(tmp_path)
    names = {p.name for p in tmp_path.iterdir() if p.is_file()}
    stems = [name.format(o)[:-5] for name in (SIZES, RATES) for o in ("SGD", "AdaGrad")]
    figures = {f"{name}.png" for name in (*stems, "sharpness")}
    assert names == {"runs.csv", "trends.csv", *figures, *(f"{name}.json" for name in stems)}
    before = {name: (tmp_path / name).read_bytes() for name in names}
    run(tmp_path)
    assert len(called) == 4
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    with pytest.raises(SystemExit, match=r"was made with .*--seeds 3 .*: delete the file"):
        run(tmp_path, seeds=4)
    (tmp_path / SIZES.format("SGD")).unlink()
    (tmp_path / "MLP_1_SGD_BatchSize" / "runs.csv").unlink()
    (tmp_path / "MLP_1_SGD_BatchSize").rmdir()
    run(tmp_path)
    assert len(called) == 5 and called[4] == called[1]


@pytest.mark.slow
def test_a_part_is_run_by_options(tmp_path, called):
    options = {"optimizers": ("adagrad",), "train_size": 4000, "batch_sizes": (32, 4096, 50000)}
    run(tmp_path, effects=("batch_size",), figures="svg,pdf", **options)
    ((_, *arguments),) = called
    assert arguments[arguments.index("--vary") + 1] == "batch_size=32,4000"
    assert arguments[arguments.index("--train-size") + 1] == "4000"
    assert not list(tmp_path.glob("*.png"))
    assert {p.name for p in tmp_path.glob("*.svg")} == {
        "sharpness.svg",
        "MLP_1_AdaGrad_BatchSize.svg",
    }
    with pytest.raises(SystemExit, match="unknown adam; valid are sgd, adagrad"):
        run(tmp_path, optimizers=("adam",))


def test_trends_are_those_of_each_seed(tmp_path, called, undrawn):
    run(tmp_path)
    found = pd.read_csv(tmp_path / "trends.csv").set_index(["effect", "optimizer", "runs"])
    runs = pd.read_csv(tmp_path / "runs.csv")
    good = runs[~runs["diverged"]]
    assert len(runs) == 2 * 3 * (7 + 12) and len(good) == len(runs) - 4
    for (effect, optimizer, what), row in found.iterrows():
        part = good[(good["effect"] == effect) & (good["optimizer"] == optimizer)]
        part = part if what == "all" else part[part["converged"]]
        assert row["num"] == len(part)
        taus = [
            stats.kendalltau(seed[effect], seed[study_b.MEASURE]).statistic
            for _, seed in part.groupby("seed")
        ]
        assert row["tau"] == pytest.approx(np.mean(taus))
        assert (row["tau"] < 0) == (effect == "learning_rate")
