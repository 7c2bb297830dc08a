"""The table of an evaluation: which runs enter, ties, controls, words, page and figure."""

import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis.evaluation import inputs
from jaxsharp.analysis.evaluation.evaluating import EXTRAS

NAN = float("nan")


def table(rates=3, seeds=5):
    """Two measures of runs with two hyper-parameters, one of them a text."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid(range(rates), ["a", "b", "c"], range(seeds), indexing="ij")
    runs = pd.DataFrame(dict(zip(["rate", "name", "seed"], map(np.ravel, grid), strict=True)))
    runs["x"], runs["z"], runs["train_loss"] = np.exp(rng.normal(size=(3, len(runs))))
    return runs.assign(
        gap=np.log(runs["x"]) + 0.5 * rng.normal(size=len(runs)), converged=True, diverged=False
    )


def evaluate(runs, **options):
    usual = {"measures": ["x", "z"], "target": "gap", "hyper": ["rate", "name"], "seed": "seed"}
    usual |= {"converged": "converged", "columns": (), "rounds": 99}
    return analysis.evaluate(runs, **{**usual, **options})


def row(found, name="x"):
    return found.table.set_index("measure").loc[name]


@pytest.mark.slow
def test_controls_stand_below_the_measures():
    found = evaluate(table().assign(num_params=range(45)), controls=["seed"])
    names = ["x", "z", "rate", "name=a", "name=b", "name=c", "train_loss", "num_params", "seed"]
    assert list(found.table["measure"]) == [*names, "random number"]
    assert list(found.table["kind"]) == ["measure"] * 2 + ["control"] * 8
    two = table()[lambda runs: runs["name"] != "c"]
    assert "name=a" not in evaluate(two).table["measure"].values
    of_b = row(evaluate(two), "name=b")
    tau = analysis.correlation(two.assign(b=two["name"] == "b"), "b", "gap", ["rate"]).raw.value
    assert of_b["raw"] == pytest.approx(tau)


def test_a_row_depends_on_no_other():
    alone, both = evaluate(table(), measures=["x"]), evaluate(table(), measures=["z", "x"])
    same = ["raw", "raw_low", "within_p", "given_loss_low", "given_all_high"]
    assert list(row(alone)[same]) == list(row(both)[same])
    assert list(row(alone, "random number")[same]) == list(row(both, "random number")[same])
    again = evaluate(table(), measures=["x"], draw=1)
    assert row(again)["raw"] == row(alone)["raw"]
    assert row(again)["raw_low"] != row(alone)["raw_low"]
    assert row(again, "random number")["raw"] != row(alone, "random number")["raw"]


def test_p_values_are_adjusted_for_the_number_of_measures():
    one, two = evaluate(table(), measures=["z"]), evaluate(table())
    assert row(one, "z")["within_p_holm"] == row(one, "z")["within_p"]
    ps = two.table["within_p"][:2]
    assert list(two.table["within_p_holm"][:2]) == [min(2 * min(ps), 1), max(ps)] and ps[0] < ps[1]


@pytest.mark.slow
def test_runs_that_may_not_enter_are_counted():
    runs = table()
    runs.loc[[0, 1], "diverged"], runs.loc[[1, 2, 3], "converged"] = True, False
    runs.loc[[4, 5], "x"], runs.loc[6, "train_loss"] = [NAN, np.inf], NAN
    runs["x_finished"] = runs.index != 7
    found = evaluate(runs)
    counts = ["runs", "diverged", "unconverged", "unfinished", "not finite"]
    assert list(row(found)[counts]) == [37, 2, 2, 1, 3]
    assert list(row(found, "z")[counts]) == [40, 2, 2, 0, 1]
    kept = row(evaluate(runs.drop(index=range(8)).reset_index(drop=True)))
    pd.testing.assert_series_equal(row(found)[8:9], kept[8:9], check_names=False)
    assert row(found)["raw"] == kept["raw"]
    assert "37 to 40 runs enter (left out at most: 2 diverged, 2 unconverged, 1" in found.notes[1]
    asked = evaluate(runs, unconverged=True)
    assert row(asked)["runs"] == 39
    assert "2 of the runs did not converge, and enter as asked" in asked.notes  # 1 diverged
    unruled = evaluate(runs.assign(converged=None, epochs=30))
    assert row(unruled)["runs"] == 39
    text = "Nothing says which runs converged: all count, at their last epoch (30)"
    assert text in unruled.notes


@pytest.mark.parametrize("num", [0, 1, 2])
def test_with_hardly_any_run_that_may_enter_nothing_is_decided(num):
    runs = table()
    runs["converged"] = runs.index < num
    found = evaluate(runs, columns=EXTRAS)
    assert row(found)["runs"] == num and row(found)["verdict"] == "undecided"
    names = ["raw", "within", "given_loss", "given_all", "increment", "slope"]
    assert found.table[names].isna().all(axis=None)
    assert f"{num} runs enter (left out at most: {45 - num} unconverged)" in found.notes
    assert "2 undecided" in found.headline
    assert "undecided" in analysis.markdown(found) and analysis.forest(found).axes


@pytest.mark.slow
def test_measures_within_two_standard_errors_are_ties():
    runs = table().assign(x_error=1e9)
    assert np.isnan(row(evaluate(runs))["raw"])
    assert "x: runs within two standard errors of each other are ties" in evaluate(runs).notes
    exact = row(evaluate(table()))["raw"]
    assert row(evaluate(runs.assign(x_error_kind="residual")))["raw"] == exact
    assert row(evaluate(runs.assign(x_error=0.0, x_error_kind="standard error")))["raw"] == exact
    assert row(evaluate(runs.assign(x_error=NAN)))["raw"] == exact
    small = row(evaluate(runs.assign(x_error=0.05, x_error_kind="standard error")))["raw"]
    assert np.isfinite(small) and small != exact
    pair = pd.DataFrame({"x": [0.0, 1.0, 9.0, 20.0], "gap": [0, 1, 2, 3], "rate": [1, 1, 2, 2]})
    pair["x_error"] = 1 / np.sqrt(8)  # two standard errors of a difference are 1
    options = {"measures": ["x"], "hyper": ["rate"], "seed": None, "converged": None, "loss": None}
    assert row(evaluate(pair, **options))["raw"] == 1
    assert row(evaluate(pair.assign(x_error=0.36), **options))["raw"] == 5 / np.sqrt(30)


def test_with_fewer_than_8_configurations_there_is_no_interval_and_the_reason_is():
    found = evaluate(table(rates=2), columns=("slope",))
    for name in ("raw", "within", "given_loss", "given_all", "slope"):
        assert np.isfinite(row(found)[name]) and np.isnan(row(found)[f"{name}_low"])
        assert row(found)[f"{name}_remark"] == "6 groups, 8 needed"
    assert row(found)["verdict"] == "undecided"
    assert "x: undecided, 6 groups, 8 needed" in found.notes
    assert found.headline.startswith("0 of 2 measures predict gap beyond training loss, ")
    assert "; 2 undecided. The strongest control is " in found.headline


def test_one_seed_leaves_the_comparison_within_open():
    runs = table(rates=6, seeds=1)
    found = evaluate(runs, columns=EXTRAS)
    assert row(found)["verdict"] == "undecided"
    assert row(found)["verdict_reason"] == "within: undefined"
    assert np.isnan(
        row(found)[["within", "within_p", "worst_environment", "slope"]].astype(float)
    ).all()
    assert np.isfinite(row(found)[["granulated", "cmi", "increment"]].astype(float)).all()
    assert row(found)["slope_remark"] == "no two runs of a configuration"


def test_without_a_training_loss_it_is_no_control():
    found = evaluate(table().drop(columns="train_loss"), loss=None)
    assert row(found)["verdict"] == "predicts" and np.isnan(row(found)["partial_loss"])
    assert row(found)["given_loss_remark"] == "no training loss"
    assert "beyond hyper-parameters and controls: x. " in found.headline


def test_the_environment_is_told_in_words():
    runs = table()
    bad = (runs["rate"] == 2) & (runs["name"] == "b")
    runs.loc[bad, ["x", "gap"]] = np.stack([runs.loc[bad, "x"] + 99, runs.loc[bad, "gap"] - 99], 1)
    found = row(evaluate(runs, columns=("worst_environment",)))
    assert found["worst_environment"] == 1 and "2" in found["worst_environment_of"]
    assert found["worst_environment_of"] in {
        *(f"rate {r} or 2 at name b" for r in (0, 1)),
        *("name a or b at rate 2", "name b or c at rate 2"),
    }
    assert (found["environments"], found["pairs"]) == (18, 450)


def test_constant_hyper_parameters_are_named_and_dropped():
    found = evaluate(table().assign(size=32), hyper=["rate", "size", "name"])
    assert "Hyper-parameters that do not vary: size" in found.notes
    assert "size" not in set(found.table["measure"])


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        ({}, {"measures": ["xx"]}, "unknown column 'xx'; valid are x, "),
        ({}, {"measures": []}, "measures is empty"),
        ({}, {"measures": ["x", "x"]}, "measures are \\('x', 'x'\\); each must be there once"),
        ({}, {"hyper": []}, "hyper is empty"),
        ({}, {"loss": "train_los"}, "unknown column 'train_los'; valid are train_loss"),
        ({}, {"target": "x"}, "column 'x' is a measure and the target"),
        ({}, {"seed": "rate"}, "column 'rate' is a hyper-parameter and the seed"),
        ({"x": "text"}, {}, "column 'x' holds 'text'; it must hold numbers"),
        ({"x": NAN}, {}, "column 'x' has no finite value"),
        ({"gap": np.inf}, {}, "column 'gap' has no finite value"),
        ({"diverged": "no"}, {}, "column 'diverged' holds 'no'; it must be True or False"),
        ({"x_error": -1.0}, {}, "column 'x_error' holds -1.0; errors are at least 0"),
        ({"x_error": "0.1 nats"}, {}, "column 'x_error' holds '0.1 nats'; it must hold numbers"),
        ({}, {"noise": NAN}, "noise is nan"),
        ({}, {"rounds": 10}, "rounds is 10; it must be at least 99"),
        ({}, {"confidence": 1.0}, "confidence is 1.0"),
        ({}, {"columns": ["cmii"]}, "unknown column 'cmii'; valid are cmi"),
    ],
)
def test_wrong_inputs_are_named(change, options, text):
    with pytest.raises(ValueError, match=text):
        evaluate(table().assign(**change), **options)


def test_tables_without_rows_or_with_a_column_twice_are_refused():
    with pytest.raises(ValueError, match="the table has no rows; it must have one a run"):
        evaluate(table()[:0])
    with pytest.raises(ValueError, match="column 'x' is in the table twice; name one otherwise"):
        evaluate(pd.concat([table(), table()[["x"]]], axis=1))


def test_the_table_given_is_not_changed():
    runs = table()
    before = runs.copy()
    evaluate(runs)
    pd.testing.assert_frame_equal(runs, before)


def test_the_page_has_every_row_and_note():
    found = evaluate(table(), columns=("granulated", "slope"))
    lines = analysis.markdown(found).splitlines()
    assert lines[0] == "# What predicts gap" and lines[2] == found.headline
    (head, rule, *rows), of_notes = lines[4 : -1 - len(found.notes)], lines[-len(found.notes) :]
    names = "measure | runs | raw tau | within tau | p | Psi | partial tau, loss | tau given loss"
    assert head == f"| {names} | tau given all | slope | verdict |"
    assert rule.count("|") == head.count("|") and len(rows) == len(found.table)
    cells = [cell.strip() for cell in rows[0].split("|")]
    of_x = row(found)
    ends = f"[{of_x['raw_low']:+.2f}, {of_x['raw_high']:+.2f}]"
    assert cells[1:4] == ["x", "45", f"{of_x['raw']:+.2f} {ends}"]
    assert cells[5] == f"{of_x['within_p_holm']:.3f}" and cells[-2] == "predicts"
    assert of_notes == [f"- {note}" for note in found.notes]


def test_the_forest_has_a_row_for_each_and_bars_for_intervals():
    found = evaluate(table())
    figure = analysis.forest(found)
    figure.canvas.draw()
    raw, within, _ = figure.axes
    labels = [label.get_text() for label in raw.get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in found.table["measure"]]
    points = {}
    for panel, name in ((raw, "raw"), (within, "within")):
        found_points = [tuple(p) for line in panel.containers for p in line[0].get_xydata()]
        places = np.arange(len(found.table))[::-1]
        expected = [p for p in zip(found.table[name], places, strict=True) if p[0] == p[0]]
        assert sorted(found_points) == sorted(expected)
        points[name] = len(expected)
    assert points["within"] < points["raw"]
    (bars,) = raw.containers[0].lines[2]
    ends = bars.get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [row(found)["raw_low"], row(found)["raw_high"]])
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == ["measure", "control"]


@pytest.mark.parametrize(
    ("kind", "exact", "tied"),
    [
        ("standard error", False, True),
        ("standard error over groups of examples", False, True),
        ("standard error if sampled, else rounding", False, True),
        ("standard error if sampled, else rounding", True, False),
        ("residual", False, False),
        (NAN, False, True),
        (NAN, NAN, True),
        (1.0, False, False),
    ],
)
def test_standard_errors_of_any_kind_are_known_by_their_first_words(kind, exact, tied):
    table = pd.DataFrame({"m": [1.0, 2.0], "m_error": 0.1, "m_error_kind": kind, "m_exact": exact})
    assert (inputs._error_column(table, "m") == "m_error") == tied
