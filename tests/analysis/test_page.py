"""A page is whole, small, and takes what studies hold for text."""

import html.parser
import json
import re

import pytest

from jaxsharp.analysis.page import html as pages
from jaxsharp.analysis.page import page_of
from jaxsharp.analysis.page.cells import cell
from jaxsharp.analysis.page.headline import headline
from jaxsharp.analysis.results import study_result
from tests.pages import (
    INFINITY,
    LAST,
    MEASURES,
    NAN,
    RATES,
    content_of,
    history_of,
    many_runs,
    small_page,
    study_of,
    title_of,
)

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'`><b>&amp;\\u003c",
    "<!--<script>",
    "]]>\u2028\N{SNOWMAN}$title",
)
SMALL = {"optimizers": ("sgd", "adam"), "rates": RATES[:1], "seeds": 3}


class Reader(html.parser.HTMLParser):
    """The elements of a page and their attributes, as a browser would take them apart."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def large():
    """500 runs of 200 epochs, in the cells of 100 configurations."""
    axes = ("optimizer", "sam", "learning_rate")
    return page_of([study_of(many_runs(), axes)])


@pytest.mark.slow
def test_500_runs_take_less_than_two_megabytes(large):
    found = content_of(large)
    assert len(found["runs"]["optimizer"]) == len(found["curves"]["runs"]) == 500
    assert len(large.encode()) < 2_000_000
    epochs, *series = found["curves"]["runs"][499]
    assert epochs[0] == 1 and epochs[-1] == LAST and len(epochs) == found["curves"]["epochs"] > 40
    assert len(series) == 4 and all(len(values) == len(epochs) for values in series)


def test_few_runs_keep_every_epoch():
    found = content_of(small_page())
    assert found["curves"]["epochs"] == 0
    assert [run[0] for run in found["curves"]["runs"]] == [[1, 2, 3, 4, 5]] * 12


@pytest.mark.slow
def test_a_page_has_no_address_and_loads_nothing(large):
    assert "http" not in large.replace("http-equiv", "").lower() and "//" not in re.sub(
        r"^\s*//.*$|;\s*//.*$", "", large, flags=re.M
    )
    elements = Reader(large).elements
    assert {tag for tag, _ in elements}.isdisjoint(["link", "img", "iframe", "object", "base"])
    assert not any({"src", "href"} & set(attributes) for _, attributes in elements)
    (policy,) = (a["content"] for _, a in elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    for element, text in re.findall(r"<(script|style)>(.*?)</\1>", large, re.S):
        assert f"{element}-src '{pages.digest(text)}'" in policy


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_study_holds_is_text(text):
    plain = [tag for tag, _ in Reader(small_page()).elements]
    runs = many_runs(**SMALL).replace({"optimizer": {"adam": text}})
    evaluation = history_of(runs, ["optimizer"], 1).rename(columns={"epoch": text})
    hostile = {"name": text, "evaluation": evaluation, "remarks": [text], "command": text}
    page = page_of([study_of(runs, epochs=5, facts={text: {text: text}}, **hostile)])
    assert page.isascii() and [tag for tag, _ in Reader(page).elements] == plain
    found = content_of(page)
    (study,) = found["studies"]
    assert found["runs"]["optimizer"].count(text) == 6
    assert study["name"] == study["command"] == text and study["facts"] == [[text, [[text, text]]]]
    assert study["tables"][2]["heads"][2] == text and study["tables"][2]["rows"][6][0] == text
    assert title_of(page) == text


def test_a_title_of_ones_own_is_text_too():
    page = page_of([study_of(many_runs(**SMALL), epochs=1)], title=HOSTILE[0])
    assert title_of(page) == HOSTILE[0] == content_of(page)["title"]


def test_numbers_that_json_lacks_are_none_or_text():
    runs = many_runs(**SMALL)
    runs.loc[0, "top_eigenvalue"], runs.loc[1, "test_loss"] = NAN, INFINITY
    runs.loc[2, "loss_gap"] = -INFINITY
    study = study_of(runs, epochs=3)
    study.history.loc[[0, 1], "train_loss"] = NAN, INFINITY
    found = content_of(page_of([study]))
    assert found["runs"]["top_eigenvalue"][0] is None
    assert found["runs"]["test_loss"][1] == "\N{INFINITY}"
    assert found["runs"]["loss_gap"][2] == "\N{MINUS SIGN}\N{INFINITY}"
    assert found["curves"]["runs"][0][1][:2] == [None, "\N{INFINITY}"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.123456789, 0.123457), (3.0, 3), (1e-9, 1e-9), (True, True), ((1, "a"), "1, a"), ({}, "")],
)
def test_cells(value, expected):
    assert cell(value) == expected and type(cell(value)) is type(expected)


def test_runs_have_their_ends_and_unfinished_values_are_marked():
    runs = many_runs(**SMALL)
    runs["converged"] = [True] * 10 + [False] * 2
    runs.loc[1, "diverged"], runs.loc[2, "top_eigenvalue_finished"] = True, False
    found = content_of(page_of([study_of(runs, epochs=2)]))["runs"]
    assert found["ended"][:3] == ["converged", "diverged", "converged"]
    assert found["ended"][-1] == "unconverged"
    assert [i for i, out in enumerate(found["top_eigenvalue_unfinished"]) if out] == [2]
    free = content_of(page_of([study_of(runs.assign(converged=None, diverged=False), epochs=2)]))
    assert set(free["runs"]["ended"]) == {"last epoch"}


def test_columns_that_are_alike_are_left_out_and_axes_are_labels():
    axes = ("optimizer", "sam", "learning_rate")
    runs = many_runs(("sgd", "adam"), RATES[:2], 3)
    found = content_of(page_of([study_of(runs, axes, epochs=2)]))["columns"]
    labels = [column["name"] for column in found if column["label"]]
    assert labels == ["optimizer", "sam", "ended", "seed", "learning_rate"]
    assert [column["name"] for column in found if column["kind"] == "measure"] == list(MEASURES)
    assert "dataset" not in [column["name"] for column in found]


def test_studies_stand_together():
    """One without the other's measures has none of their values; curves follow their runs."""
    one = study_of(many_runs(**SMALL), epochs=2)
    two = study_of(many_runs(**SMALL), measures=MEASURES[:1], name="two", epochs=3)
    two.history["tracked"] = two.history["seed"]
    found = content_of(page_of([one, two._replace(history=two.history[two.history["seed"] > 0])]))
    assert [study["name"] for study in found["studies"]] == ["made", "two"]
    assert found["runs"]["study"] == ["made"] * 12 + ["two"] * 12
    assert found["runs"]["top_eigenvalue"][12:] == [None] * 12
    assert found["runs"]["top_eigenvalue_unfinished"] == [False] * 24
    assert found["curves"]["names"][-1] == "tracked"
    assert found["curves"]["runs"][0][-1] is None and found["curves"]["runs"][12] is None
    assert found["curves"]["runs"][13][-1] == [1, 1, 1]


def test_the_means_are_those_of_the_summary():
    study = study_of(many_runs(**SMALL), epochs=2)
    summary, (means, *_) = (
        study.result.summary,
        content_of(page_of([study]))["studies"][0]["tables"],
    )
    place = means["heads"].index("top eigenvalue")
    for row, expected in zip(means["rows"], summary.to_dict("records"), strict=True):
        ends = [expected[f"top_eigenvalue_{part}"] for part in ("geomean", "low", "high")]
        assert row[place][:3] == pytest.approx(ends, rel=1e-5) and row[place][3] == ""
    assert means["heads"][2:4] == ["runs", "converged"] and "diverged" not in means["heads"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gap": "wide"}, "column gap holds 'wide'; it must hold numbers"),
        ({"seed": 0}, "the run sgd, none, 0 stands twice in the table"),
    ],
)
def test_a_table_that_is_none_is_refused(change, message):
    study = study_of(many_runs(**SMALL), epochs=2)
    runs = study.result.runs.astype(object).assign(**change)
    study = study._replace(result=study.result._replace(runs=runs))
    with pytest.raises(ValueError, match=message):
        page_of([study])
    with pytest.raises(ValueError, match="at least one study"):
        page_of([])


def correlations(relation, **sizes):
    """Of runs whose gap is the measure by as much as the relation, and otherwise noise."""
    runs = many_runs(**{**SMALL, **sizes})
    runs["gap"] = relation * runs["top_eigenvalue"] + (1 - abs(relation)) * runs["gap"]
    runs["converged"] = True
    axes = ["optimizer", "sam", "learning_rate"]
    return study_result(runs, axes, ["top_eigenvalue", "random_perturbation"]).correlations


def test_the_headline_says_what_the_intervals_say():
    few = headline(correlations(0.9), "gap")
    assert few.startswith("Whether sharpness goes with the gap cannot be said from these runs. ")
    assert "(no interval: 4 groups, 8 needed) over 12 of 12 runs, among runs of equal" in few
    nothing = headline(correlations(0.0, rates=RATES[:4]), "loss_gap")
    assert nothing.startswith("That sharpness goes with the loss gap is not shown: none of 2 ")
    much = headline(correlations(0.9, rates=RATES[:4]), "gap")
    assert much.startswith("1 of 2 measures has a Kendall's tau with the gap whose 95 % interval ")
    assert "Top eigenvalue: +" in much and "Random perturbation" not in much
    against = headline(correlations(-0.9, rates=RATES[:4]), "gap")
    assert "Top eigenvalue: -" in against and "1 of 2" in against
    assert headline({}, "gap") == "No measure was taken."
