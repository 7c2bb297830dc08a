"""The figure of sharpness against the gap: points, error bars, looks and titles."""

import matplotlib as mpl
import numpy as np
import pytest

from jaxsharp import analysis
from jaxsharp.analysis import canvas
from jaxsharp.optimizers import SHARPNESS_AWARE
from tests.drawings import (
    MEASURES,
    NAN,
    VARIANTS,
    against_gap,
    curves,
    drawn,
    legend,
    one_history,
    study_history,
    study_runs,
    texts,
)


def containers(panel):
    return [
        (c, c.lines[0].get_marker(), mpl.colors.to_hex(c.lines[0].get_markerfacecolor()))
        for c in panel.containers
    ]


def test_points_bars_and_markers_are_those_of_the_table():
    runs = study_runs(variants=VARIANTS)
    runs.loc[0, "converged"] = False
    figure = drawn(against_gap(runs))
    for panel, name in zip(figure.axes, MEASURES, strict=True):
        kinds = runs.groupby(["optimizer", "sam", "converged"], sort=False)
        found = containers(panel)
        for (container, marker, face), (key, group) in zip(found, kinds, strict=True):
            optimizer, sam, converged = key
            color = dict(sgd=canvas.BLUE, adam=canvas.RED)[optimizer]
            assert marker == dict(none="o", sam="s", asam="^")[sam]
            assert face == (color.lower() if converged else "#ffffff")
            assert container.lines[0].get_color() == color
            np.testing.assert_array_equal(container.lines[0].get_xdata(), group[name])
            np.testing.assert_array_equal(container.lines[0].get_ydata(), group["gap"])
            (bars,) = container.lines[2]
            ends = np.array([segment[:, 0] for segment in bars.get_segments()])
            error = group[f"{name}_error"]
            expected = np.stack([group[name] - error, group[name] + error], axis=1)
            np.testing.assert_allclose(ends, expected, rtol=1e-12)
            np.testing.assert_array_equal(bars.get_color()[0], mpl.colors.to_rgba(color))
    assert [panel.get_xscale() for panel in figure.axes] == ["log", "linear"]
    assert figure.axes[1].get_xlabel() == "largest eigenvalue of the Hessian"
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels == ["generalization gap (percentage points)", ""]
    assert legend(figure) == ["sgd", "adam", "without SAM", "sam", "asam", "unconverged"]
    marks = [line.get_marker() for line in figure.legends[0].get_lines()]
    assert marks == ["o", "o", "o", "s", "^", "o"]


def test_no_variant_has_one_look_in_every_figure_and_the_others_differ():
    for variants in (["none", "sam"], ["gsam", "none"], ["none", *SHARPNESS_AWARE]):
        (curve,) = analysis.training_curves(study_history(["sgd"], 1, variants)).axes
        colors = [line.get_color() for line in curves(curve, "-")]
        assert colors[variants.index("none")] == canvas.BLUE
        runs = study_runs(["sgd"], 1, variants)
        (points,) = against_gap(runs, MEASURES[:1]).axes
        shapes = [marker for _, marker, _ in containers(points)]
        assert shapes[variants.index("none")] == "o"
        assert len(set(colors)) == len(set(shapes)) == len(variants)
    assert canvas.BLUE not in [
        line.get_color() for line in analysis.training_curves(one_history(sam="sam")).axes[0].lines
    ]


def test_the_title_has_both_coefficients_and_the_runs_behind_them():
    runs = study_runs()
    correlation = analysis.Correlation(
        raw=analysis.Coefficient(-0.714, -0.806, 0.6),
        within=analysis.Coefficient(-0.25, NAN, NAN, "3 seeds, 5 needed"),
        pearson=analysis.Coefficient(NAN, NAN, NAN),
        spearman=analysis.Coefficient(NAN, NAN, NAN),
        num_runs=34,
        num_pairs=561,
        num_within_pairs=30,
        excluded={"diverged": 2, "unconverged": 0, "not finite": 1},
        confidence=0.9,
    )
    figure = analysis.sharpness_against_gap(runs, MEASURES[:1], {MEASURES[0]: correlation})
    assert figure.axes[0].get_title().split("\n") == [
        "Kendall's τ, raw: -0.71 (90%: -0.81 to +0.60)".replace("-", "\N{MINUS SIGN}"),
        "within groups: -0.25 (no interval: 3 seeds, 5 needed)".replace("-", "\N{MINUS SIGN}"),
        "34 of 37 runs (out: 2 diverged, 1 not finite)",
    ]


def test_diverged_and_unmeasured_runs_have_no_point():
    runs = study_runs()
    runs.loc[0, "diverged"] = True
    runs.loc[1, "minimum_sharpness"] = NAN
    runs.loc[2, "gap"] = np.inf
    panel = drawn(against_gap(runs)).axes[0]
    gaps = np.concatenate([c.lines[0].get_ydata() for c, _, _ in containers(panel)])
    np.testing.assert_array_equal(gaps, runs["gap"][3:])
    assert panel.get_title().endswith("9 of 12 runs (out: 1 diverged, 2 not finite)")


def test_bars_that_reach_zero_do_not_stretch_a_logarithmic_axis():
    runs = study_runs().assign(minimum_sharpness_error=1000.0)
    panel = drawn(against_gap(runs)).axes[0]
    low, high = panel.get_xlim()
    assert 5 < low < 10 and high > runs["minimum_sharpness"].max() + 1000


@pytest.mark.parametrize("error", [NAN, np.inf, None])
def test_points_without_an_error_are_drawn_without_a_bar(error):
    runs = study_runs().assign(minimum_sharpness_error=error)
    if error is None:
        runs = runs.drop(columns="minimum_sharpness_error")
    panel = drawn(against_gap(runs)).axes[0]
    assert sum(len(c.lines[0].get_xdata()) for c, _, _ in containers(panel)) == len(runs)
    low, high = panel.get_xlim()
    assert 0.5 * runs["minimum_sharpness"].min() < low < runs["minimum_sharpness"].min()
    assert runs["minimum_sharpness"].max() < high < 2 * runs["minimum_sharpness"].max()


def test_one_run_is_drawn_with_room_around_it():
    runs = study_runs(("sgd",), seeds=1)[:1].assign(minimum_sharpness_error=0.0)
    panel = drawn(against_gap(runs)).axes[0]
    low, high = panel.get_xlim()
    assert low < 10 / 1.04 and high > 10 * 1.04
    assert "raw: undefined\nwithin groups: undefined\n1 of 1 runs" in panel.get_title()


def test_a_measure_that_no_run_has_says_so_beside_the_others():
    empty, full = drawn(against_gap(study_runs().assign(minimum_sharpness=NAN))).axes
    assert texts(empty) == [canvas.NOTHING] and len(empty.get_xticks()) == 0
    assert texts(full) == [] and len(full.get_yticks()) > 1
    assert empty.get_title().endswith("0 of 12 runs (out: 12 not finite)")


def test_no_usable_runs_are_said_in_every_panel():
    runs = study_runs()
    for table in (runs.assign(diverged=True, gap=NAN), runs[:0]):
        for panel in drawn(against_gap(table)).axes:
            assert texts(panel) == [canvas.NOTHING] and not panel.containers
            assert "raw: undefined" in panel.get_title()
    (panel,) = drawn(against_gap(runs, [])).axes
    assert texts(panel) == [canvas.NOTHING]


def test_a_measure_without_a_correlation_is_refused():
    with pytest.raises(ValueError, match=r"correlations lacks \['top_eigenvalue'\]; it has \[\]"):
        analysis.sharpness_against_gap(study_runs(), ["top_eigenvalue"], {})
