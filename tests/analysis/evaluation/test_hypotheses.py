"""Hypotheses: what is refused, which family Holm adjusts for, when an interval agrees."""

import re

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from jaxsharp import analysis
from jaxsharp.analysis.coefficients import Coefficient
from jaxsharp.analysis.evaluation import resampling
from jaxsharp.analysis.hypotheses import agreement, parse_hypotheses, written

MEASURES, TARGETS = ["sharpness", "norm", "margin"], ["gap", "loss_gap"]
NAN = float("nan")


def test_texts_are_hypotheses_in_one_order():
    one = parse_hypotheses("norm:-:gap, margin:+:gap ,norm:+:loss_gap", MEASURES, TARGETS)
    other = parse_hypotheses(["norm:+:loss_gap", "margin:+:gap", "norm:-:gap"], MEASURES, TARGETS)
    assert one == other and written(one) == "margin:+:gap,norm:+:loss_gap,norm:-:gap"
    assert (one[0].measure, one[0].sign, one[0].target) == ("margin", "+", "gap")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it must be MEASURE:SIGN:TARGET with the sign + or -"),
        ("norm:+", "hypotheses has 'norm:+'; it must be MEASURE:SIGN:TARGET"),
        ("norm:+:gap,", "hypotheses has ''; it must be"),
        ("norm:gap:+", "hypotheses has 'norm:gap:+' with the sign 'gap'; it must be + or -"),
        ("norm::gap", "with the sign ''; it must be + or -"),
        ("nrm:+:gap", "unknown measure of a hypothesis 'nrm'; valid are norm, "),
        ("norm:+:los_gap", "unknown target of a hypothesis 'los_gap'; valid are loss_gap, gap"),
        ("norm:+:gap,norm:+:gap", "hypotheses has norm:+:gap twice; give it once"),
        ("norm:+:gap,norm:-:gap", "expects both signs of norm with gap; give one"),
        ([1], "hypotheses has 1; it must be"),
        ([], "hypotheses is empty"),
    ],
)
def test_what_is_no_hypothesis_is_said_in_one_line(text, said):
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        parse_hypotheses(text, MEASURES, TARGETS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("low", "high", "plus", "minus"),
    [(0.1, 0.3, "yes", "no"), (-0.3, -0.1, "no", "yes"), (-0.1, 0.3, "open", "open")],
)
def test_an_interval_agrees_on_the_side_that_was_expected(low, high, plus, minus):
    found = Coefficient((low + high) / 2, low, high, "")
    assert (agreement("+", found), agreement("-", found)) == (plus, minus)
    assert agreement("+", found, False) == agreement("-", found, False) == "open"
    assert agreement("+", Coefficient(0.9, NAN, NAN, "2 groups, 8 needed")) == "open"


def test_unknown_p_values_count_as_one():
    p = [0.01, 0.04, 0.03]
    want = multipletests([*p, 1, 1], method="holm")[1][:3]
    np.testing.assert_allclose(resampling.holm(p, 2), want)
    assert resampling.holm([NAN, 0.01], 1)[1] == 0.02


@pytest.fixture(scope="module")
def runs():
    """A measure that causes the gap, one that does so with the other sign, and three of noise."""
    rng = np.random.default_rng(0)
    rate, seed = (x.ravel() for x in np.meshgrid(range(9), range(5), indexing="ij"))
    table = pd.DataFrame({"rate": rate, "seed": seed, "train_loss": np.exp(rng.normal(size=45))})
    gap = rng.normal(size=45)
    table["up"], table["down"] = np.exp(
        np.array([[1], [-1]]) * gap + 0.3 * rng.normal(size=(2, 45))
    )
    table["a"], table["b"], table["c"] = rng.normal(size=(3, 45))
    return table.assign(gap=gap, loss_gap=rng.normal(size=45))


def evaluated(runs, *hypotheses, **options):
    usual = {"measures": ["up", "down", "a", "b", "c"], "target": "gap", "hyper": ["rate"]}
    usual |= {"seed": "seed", "converged": None, "columns": (), "rounds": 99}
    return analysis.evaluate(runs, **usual | options, hypotheses=hypotheses)


def column(found, name):
    return dict(zip(found.table["measure"], found.table[name], strict=True))


@pytest.mark.slow
def test_holm_adjusts_for_the_hypotheses_and_apart_from_them_for_the_rest(runs):
    found = evaluated(runs, "up:+:gap", "a:-:gap", "b:+:loss_gap")
    p, holm = column(found, "within_p"), column(found, "within_p_holm")
    stated = multipletests([p["up"], p["a"], 1.0], method="holm")[1]
    rest = multipletests([p["down"], p["b"], p["c"]], method="holm")[1]
    np.testing.assert_allclose([holm["up"], holm["a"]], stated[:2])
    np.testing.assert_allclose([holm["down"], holm["b"], holm["c"]], rest)
    text = "adjusted by Holm for 3 hypotheses, and apart from that for 3 exploratory measures"
    assert any(text in note for note in found.notes)
    assert "Not in this table, and counted by Holm as p = 1: b:+:loss_gap" in found.notes
    # One that is not evaluated counts all the same.
    fewer = evaluated(runs, "up:+:gap", "a:-:gap", "b:+:loss_gap", measures=["up"])
    assert column(fewer, "within_p_holm")["up"] == pytest.approx(min(3 * p["up"], 1))


def test_each_measure_is_marked_and_found_signs_are_compared(runs):
    found = evaluated(runs, "up:+:gap", "down:+:gap", "a:-:gap")
    signs = ["+", "+", "-", "exploratory", "exploratory"]
    assert list(found.table["hypothesis"][:5]) == signs and set(found.table["hypothesis"][5:]) == {
        ""
    }
    assert list(found.table["raw_agrees"][:5]) == ["yes", "no", "open", "", ""]
    assert list(found.table["within_agrees"][:5]) == ["yes", "no", "open", "", ""]
    assert "2 of 5 measures predict gap" in found.headline
    said = "Hypotheses on gap, 3: raw tau agrees with 1, contradicts 1, leaves 1 open; within tau"
    assert said in found.headline
    page = analysis.markdown(found)
    assert "| hypothesis | raw agrees | within agrees | verdict |" in page
    assert re.search(r"\| down \|.*\| \+ \| no \| no \| predicts \|", page)
    assert re.search(r"\| b \|.*\| exploratory \| - \| - \| ", page)
    assert "(exploratory)" in evaluated(runs, "a:+:gap").headline


@pytest.mark.slow
def test_without_hypotheses_nothing_changes_but_a_note(runs):
    plain, stated = evaluated(runs), evaluated(runs, "up:+:gap")
    assert list(plain.table) == [
        n for n in stated.table if n not in ("hypothesis", "raw_agrees", "within_agrees")
    ]
    assert "No hypotheses: every measure is exploratory" in plain.notes
    assert "Hypotheses" not in plain.headline
    p = list(plain.table["within_p"][:5])
    np.testing.assert_allclose(plain.table["within_p_holm"][:5], multipletests(p, method="holm")[1])


@pytest.mark.slow
def test_the_figure_tells_hypotheses_from_the_rest(runs):
    labels = lambda figure: [t.get_text() for t in figure.axes[0].get_yticklabels()]  # noqa: E731
    keys = lambda figure: [t.get_text() for t in figure.legends[0].get_texts()]  # noqa: E731
    stated, plain = (
        analysis.forest(each) for each in (evaluated(runs, "up:+:gap"), evaluated(runs))
    )
    assert labels(stated)[:2] == ["up (+)", "down"] and labels(plain)[:2] == ["up", "down"]
    assert keys(stated) == ["hypothesis", "exploratory", "control"]
    assert keys(plain) == ["measure", "control"]
    shapes = {line.get_marker() for line in stated.axes[0].get_lines()}
    assert {"o", "D", "s"} <= shapes


@pytest.mark.parametrize(
    ("stated", "said"),
    [("no:+:gap", "unknown measure of a hypothesis 'no'"), ("up:+:gaps", "valid are gap, ")],
)
def test_hypotheses_are_on_columns_of_the_table(runs, stated, said):
    with pytest.raises(ValueError, match=said):
        evaluated(runs, stated)


def test_what_follows_the_settings_agrees_raw_and_not_within(runs):
    rng = np.random.default_rng(1)
    follows, target = runs["rate"].to_numpy() + 0.1 * rng.normal(size=(2, 45))
    table = runs.assign(follows=follows, target=target)
    usual = {"measures": ["follows"], "target": "target"}
    found = evaluated(table, "follows:+:target", **usual).table.iloc[0]
    assert (found["raw_agrees"], found["within_agrees"]) == ("yes", "open")
