"""A page in a real browser, from the disk: loads nothing, sorts, filters, says what a run is."""

import pytest

from jaxsharp.analysis.page import page_of
from tests import browser
from tests.pages import NAN, RATES, content_of, many_runs, study_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.PROGRAM is None, reason="no chromium; apt-get install chromium"),
]
ATTACK = "<img src=x onerror=document.title='attacked'>"
TEXTS = "[...document.querySelectorAll({!r})].map((each) => each.textContent)"


@pytest.fixture(scope="module")
def page():
    """24 runs: one did not converge, one diverged, one is unfinished, one has no gap."""
    runs = many_runs(("sgd", "adam"), RATES[:2], 3).replace({"optimizer": {"adam": ATTACK}})
    runs["converged"], runs["top_eigenvalue_error"] = True, 0.2 * runs["top_eigenvalue"]
    runs.loc[0, "converged"], runs.loc[1, "diverged"] = False, True
    runs.loc[2, "top_eigenvalue_finished"] = False
    runs.loc[4, ["gap", "test_accuracy"]] = NAN
    study = study_of(runs, ("optimizer", "sam", "learning_rate"), epochs=4)
    study.history.loc[3, "train_loss"] = NAN
    return page_of([study._replace(command="jaxsharp study", facts={"Settings": {"seeds": 3}})])


@pytest.fixture(scope="module")
def window(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    file = folder / "report.html"
    file.write_text(page)
    with browser.Browser(folder / "profile") as found:
        found.file = file.as_uri()
        yield found


@pytest.fixture
def fresh(window):
    """The page anew; whatever a test does with it, nothing is loaded and no error is said."""
    window.emulate()
    window.requests.clear()
    window.open(window.file)
    yield window
    assert window.errors == [] and window.requests == [window.file]
    assert window.run("document.title") == "made"


def texts(window, selector):
    return window.run(TEXTS.format(selector))


def column(window, table, place):
    return texts(window, f"{table} tbody tr td:nth-child({place})")


def marks(window, place="#scatter"):
    return window.run(f"document.querySelectorAll('{place} .mark').length")


def test_a_page_is_whole_and_reads_as_text(fresh):
    assert texts(fresh, "h1") == ["made"]
    assert texts(fresh, "h3")[:2] == ["Means over seeds", "Correlations with the gap"]
    assert texts(fresh, "pre") == ["jaxsharp study"]
    assert set(column(fresh, "#list", 1)) == {"sgd", ATTACK}
    assert fresh.run("document.querySelectorAll('img').length") == 0
    # A panel a measure; diverged runs and those without a gap are in none, unfinished values too.
    assert fresh.run("document.querySelectorAll('#scatter svg').length") == 3
    assert marks(fresh) == 22 + 21 + 22
    assert texts(fresh, "#drawn")[0].startswith("24 of 24 runs; up to 3 of them have no value")
    assert fresh.run("document.querySelectorAll('#scatter .hollow').length") == 3
    assert fresh.run("document.querySelectorAll('#curves .curve').length") == 48
    assert texts(fresh, "#curves svg text")[:4] == ["1", "2", "3", "4"]
    assert fresh.run("document.querySelectorAll('#curves .curve.test').length") == 24


def test_a_heading_sorts_up_and_down_with_what_is_missing_last(fresh):
    heads = texts(fresh, "#list th")
    place = heads.index("gap") + 1
    gaps = [gap for gap in content_of(page_text(fresh))["runs"]["gap"] if gap is not None]
    head = f"#list th:nth-child({place})"
    for direction, sign in (("ascending", 1), ("descending", -1)):
        fresh.click(f"{head} button")
        assert fresh.run(f"document.querySelector('{head}').ariaSort") == direction
        found = [text.replace("\N{MINUS SIGN}", "-") for text in column(fresh, "#list", place)]
        assert found[-1] == "\N{EN DASH}"
        expected = sorted(gaps, reverse=sign < 0)
        assert [float(text) for text in found[:-1]] == pytest.approx(expected, rel=1e-2)


def page_text(window):
    return window.run("document.documentElement.outerHTML")


def test_filters_and_the_legend_leave_out_runs_everywhere(fresh):
    fresh.choose("#filter-sam", "1")
    assert set(column(fresh, "#list", 2)) == {"sam"} and marks(fresh) == 3 * 12
    fresh.click("#legend button:nth-child(2)")
    assert set(column(fresh, "#list", 1)) == {"sgd"} and marks(fresh) == 3 * 6
    assert fresh.run("document.querySelectorAll('#curves .curve').length") == 12
    assert texts(fresh, "#drawn")[0].startswith("6 of 24 runs. ")
    fresh.click("#legend button:nth-child(2)")
    fresh.choose("#filter-sam", "")
    assert len(column(fresh, "#list", 1)) == 24


def test_axes_colours_and_curves_are_chosen(fresh):
    fresh.choose("#x", "train_loss")
    fresh.choose("#y", "test_accuracy")
    (label,) = fresh.run(
        "[...document.querySelectorAll('#scatter svg')].map((e) => e.ariaLabel || "
        "e.getAttribute('aria-label'))"
    )
    assert label == "test accuracy against train loss"
    fresh.choose("#colour", "seed")
    assert texts(fresh, "#legend button") == ["0", "1", "2"]
    # Shapes differ as colours do, so that neither is needed to read the other.
    looks = fresh.run(
        "[...document.querySelectorAll('#legend .mark')].map((e) => [e.getAttribute('d'), "
        "getComputedStyle(e).fill])"
    )
    assert len({d for d, _ in looks}) == len({fill for _, fill in looks}) == 3
    before = fresh.run("document.querySelector('#curves svg').outerHTML")
    fresh.choose("#curve", "accuracy")
    assert fresh.run("document.querySelector('#curves svg').outerHTML") != before
    ticks = texts(fresh, "#scatter svg text")
    fresh.click("#log-x")
    assert texts(fresh, "#scatter svg text") != ticks


def test_the_pointer_says_which_run_it_is_on(fresh):
    fresh.choose("#x", "top_eigenvalue")
    runs = content_of(page_text(fresh))["runs"]
    last = len(runs["seed"]) - 1
    assert fresh.run("document.querySelector('#tip').hidden") is True
    fresh.mouse("mouseMoved", *fresh.place("#scatter .mark:last-of-type"))
    (tip,) = texts(fresh, "#tip")
    assert tip.startswith(
        f"{ATTACK}, sam, converged, seed {runs['seed'][last]}, learning rate 0.00"
    )
    value = runs["top_eigenvalue"][last]
    assert f"top eigenvalue: {value:.3g}"[:18] in tip and "\N{PLUS-MINUS SIGN}" in tip
    (row,) = texts(fresh, "#list tr.marked td:first-child")
    assert row == ATTACK
    # The same run stands out in the curves; away from all runs, none does.
    assert fresh.run("document.querySelectorAll('#curves .here').length") == 2
    fresh.mouse("mouseMoved", 2, 2)
    assert fresh.run("document.querySelector('#tip').hidden") is True
    assert fresh.run("document.querySelectorAll('.here, .marked').length") == 0


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_width_needs_scrolling_to_the_side(fresh, width):
    fresh.open(fresh.file, width=width)
    fresh.requests.pop()
    assert fresh.run("document.documentElement.scrollWidth") <= width
    over = "[...document.querySelectorAll('svg.plot')].every((e) => e.getBoundingClientRect().right"
    assert fresh.run(f"{over} <= {width})")
    assert (
        fresh.run(
            "Math.min(...[...document.querySelectorAll('svg.plot')].map("
            "(e) => e.getBoundingClientRect().width / e.viewBox.baseVal.width))"
        )
        > 0.95
    )


def test_dark_pages_are_dark_and_paper_is_white(fresh):
    colors = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light = fresh.run(colors)
    fresh.emulate(prefers_color_scheme="dark")
    dark = fresh.run(colors)
    assert light[0] == "rgb(255, 255, 255)" and sum(map(int, dark[0][4:-1].split(","))) < 120
    blue = "getComputedStyle(document.querySelector('#legend .mark')).fill"
    on_dark = fresh.run(blue)
    fresh.emulate("print", prefers_color_scheme="dark")
    assert fresh.run(colors) == light and fresh.run(blue) != on_dark
    hidden = "getComputedStyle(document.querySelector('.controls')).display"
    assert fresh.run(hidden) == "none"


def test_a_page_that_is_attacked_from_inside_still_loads_nothing(window, page, tmp_path):
    """The policy holds even for what would get past the rest."""
    file = tmp_path / "attacked.html"
    bad = "<img src='https://example.invalid/x.png'><script>document.title = 'attacked'</script>"
    file.write_text(page.replace("<main", f"{bad}<main"))
    window.requests.clear()
    window.open(file.as_uri())
    assert window.run("document.title") == "made"
    blocked = [each for each in window.errors if "Content Security Policy" in each.get("text", "")]
    assert len(blocked) == len(window.errors) == 2
    assert window.run("document.querySelector('img').naturalWidth") == 0
    window.errors.clear()


@pytest.mark.slow
def test_500_runs_are_drawn(window, tmp_path):
    file = tmp_path / "large.html"
    file.write_text(page_of([study_of(many_runs(), ("optimizer", "sam", "learning_rate"), ())]))
    window.open(file.as_uri())
    assert window.errors == []
    window.choose("#x", "train_loss")
    assert marks(window) == 500 and len(column(window, "#list", 1)) == 500
