"""The figure of sharpness against the gap: points, error bars, looks and titles."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis import canvas, comparisons
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from tests.drawings import (
    MEASURES,
    NAN,
    VARIANTS,
    against_gap,
    containers,
    curves,
    drawn,
    labels_too_near,
    legend,
    one_history,
    study_history,
    study_runs,
    texts,
    varied_runs,
)


@pytest.mark.slow
def test_points_bars_and_markers_are_those_of_the_table():
    runs = study_runs(variants=VARIANTS)
    runs.loc[0, "converged"] = False
    figure = drawn(against_gap(runs))
    looks = {"sgd": (canvas.BLUE, "o"), "adam": (canvas.RED, "s")}
    panels = np.reshape(figure.axes, (3, 2))
    for sam, row in zip(VARIANTS, panels, strict=True):
        part = runs[runs["sam"] == sam]
        for panel, name in zip(row, MEASURES, strict=True):
            kinds = part.groupby(["optimizer", "converged"], sort=False)
            found = containers(panel)
            for (container, marker, face), (key, group) in zip(found, kinds, strict=True):
                optimizer, converged = key
                color, shape = looks[optimizer]
                assert marker == shape
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
            others = panel.lines[0]
            assert mpl.colors.to_hex(others.get_color()) == comparisons.OTHERS.lower()
            np.testing.assert_array_equal(others.get_xdata(), runs.loc[runs["sam"] != sam, name])
    assert [panel.get_xscale() for panel in panels[0]] == ["log", "linear"]
    assert panels[2, 1].get_xlabel() == "largest eigenvalue of the Hessian"
    labels = [panel.get_ylabel() for panel in panels[:, 0]]
    assert labels == [f"{row}\n{comparisons.GAPS['gap']}" for row in ("without SAM", "sam", "asam")]
    assert legend(figure) == ["sgd", "adam", "unconverged", "runs of the other rows"]
    marks = [line.get_marker() for line in figure.legends[0].get_lines()]
    assert marks == ["o", "s", "o", "."]


def test_optimizers_differ_by_shape_and_by_colour():
    runs = study_runs(list(OPTIMIZERS), variants=("none",))
    figure = drawn(against_gap(runs, MEASURES[:1]))
    lines = figure.legends[0].get_lines()
    assert len(lines) == len(OPTIMIZERS)
    for read in (lambda line: line.get_marker(), lambda line: line.get_color()):
        assert len(set(map(read, lines))) == len(OPTIMIZERS)
    found = containers(figure.axes[0])
    assert [marker for _, marker, _ in found] == [line.get_marker() for line in lines]


def test_no_variant_has_one_look_in_every_figure_and_comes_first():
    for variants in (["none", "sam"], ["gsam", "none"], ["none", *SHARPNESS_AWARE]):
        (curve,) = analysis.training_curves(study_history(["sgd"], 1, variants)).axes
        colors = [line.get_color() for line in curves(curve, "-")]
        assert colors[variants.index("none")] == canvas.BLUE
        assert len(set(colors)) == len(variants)
        panels = against_gap(study_runs(["sgd"], 1, variants), MEASURES[:1]).axes
        labels = [panel.get_ylabel().split("\n")[0] for panel in panels]
        assert labels == ["without SAM", *(sam for sam in variants if sam != "none")]
    assert canvas.BLUE not in [
        line.get_color() for line in analysis.training_curves(one_history(sam="sam")).axes[0].lines
    ]


def test_runs_of_different_settings_differ_in_shade_and_size():
    varied = {"learning_rate": (0.1, 0.01, 0.001), "batch_size": (32, 128)}
    runs = varied_runs(varied, variants=("none",))
    figure = drawn(against_gap(runs, MEASURES[:1], tuple(varied)))
    (panel,) = figure.axes
    looks = {}
    for container, marker, face in containers(panel):
        points = set(zip(*container.lines[0].get_data(), strict=True))
        at = [tuple(run) in points for run in runs[["minimum_sharpness", "gap"]].to_numpy()]
        ((_, run),) = runs.loc[at, ["optimizer", *varied]].drop_duplicates().iterrows()
        looks[tuple(run)] = (marker, face, container.lines[0].get_markersize())
    assert len(looks) == len(set(looks.values())) == 2 * 3 * 2
    for optimizer in ("sgd", "adam"):
        light = [sum(mpl.colors.to_rgb(looks[optimizer, r, 32][1])) for r in (0.001, 0.01, 0.1)]
        assert light == sorted(light, reverse=True)
        assert looks[optimizer, 0.1, 32][2] < looks[optimizer, 0.1, 128][2]
    assert legend(figure)[2:] == [
        *("learning rate 0.001", "learning rate 0.01", "learning rate 0.1"),
        *("batch size 32", "batch size 128"),
    ]


def test_curves_of_different_settings_differ_in_shade_and_a_third_setting_is_named():
    varied = {"learning_rate": (0.1, 0.01), "momentum": (0.0, 0.9), "label_noise": (0.0, 0.2)}
    histories = [
        study_history(["sgd"], 1, ["none"]).assign(**dict(zip(varied, values, strict=True)))
        for values in itertools.product(*varied.values())
    ]
    figure = drawn(analysis.training_curves(pd.concat(histories), tuple(varied)))
    lines = curves(figure.axes[0], "-")
    assert len(lines) == 8
    assert len({(line.get_color(), line.get_linewidth()) for line in lines}) == 4
    assert legend(figure)[1:6] == [
        *("learning rate 0.01", "learning rate 0.1", "momentum 0", "momentum 0.9"),
        "not told apart: label noise",
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
    panels = drawn(against_gap(runs, MEASURES[:1])).axes
    points = [c.lines[0].get_ydata() for panel in panels for c, _, _ in containers(panel)]
    np.testing.assert_array_equal(np.sort(np.concatenate(points)), runs["gap"][3:])
    grey = np.concatenate([panel.lines[0].get_ydata() for panel in panels])
    np.testing.assert_array_equal(np.sort(grey), runs["gap"][3:])
    panel = panels[0]
    assert panel.get_title().endswith("9 of 12 runs (out: 1 diverged, 2 not finite)")


@pytest.mark.slow
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
    panel, _, below, _ = drawn(against_gap(runs)).axes
    points = containers(panel) + containers(below)
    assert sum(len(c.lines[0].get_xdata()) for c, _, _ in points) == len(runs)
    low, high = panel.get_xlim()
    assert 0.5 * runs["minimum_sharpness"].min() < low < runs["minimum_sharpness"].min()
    assert runs["minimum_sharpness"].max() < high < 2 * runs["minimum_sharpness"].max()


def test_one_run_is_drawn_with_room_around_it():
    runs = study_runs(("sgd",), seeds=1)[:1].assign(minimum_sharpness_error=0.0)
    panel = drawn(against_gap(runs)).axes[0]
    low, high = panel.get_xlim()
    assert low < 10 / 1.04 and high > 10 * 1.04
    assert "raw: undefined\nwithin groups: undefined\n1 of 1 run" in panel.get_title()


def test_a_measure_that_no_run_has_says_so_beside_the_others():
    runs = study_runs(variants=("none",)).assign(minimum_sharpness=NAN)
    empty, full = drawn(against_gap(runs)).axes
    assert texts(empty) == [canvas.NOTHING] and len(empty.get_xticks()) == 0
    assert texts(full) == [] and len(full.get_yticks()) > 1
    assert empty.get_title().endswith("0 of 6 runs (out: 6 not finite)")


def test_no_usable_runs_are_said_in_every_panel():
    runs = study_runs()
    for table in (runs.assign(diverged=True, gap=NAN), runs[:0]):
        panels = drawn(against_gap(table)).axes
        for panel in panels:
            assert texts(panel) == [canvas.NOTHING] and not panel.containers
        assert all("raw: undefined" in panel.get_title() for panel in panels[:2])
    for panel in drawn(against_gap(runs, [])).axes:
        assert texts(panel) == [canvas.NOTHING]


@pytest.mark.slow
def test_without_a_rule_all_points_are_full_and_the_title_says_the_epoch():
    runs = study_runs().assign(converged=None, epochs=15)
    figure = drawn(against_gap(runs))
    assert all(face != "#ffffff" for panel in figure.axes for _, _, face in containers(panel))
    assert figure.axes[0].get_title().endswith("12 of 12 runs after 15 epochs")
    assert "unconverged" not in legend(figure)
    ruled = drawn(against_gap(study_runs().assign(epochs=15)))
    assert ruled.axes[0].get_title().endswith("12 of 12 runs")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((-0.0013, 0.0001), (0.0, 0.00023), (-1e-4, 3e-3), (-1234.0, 98765.0), (-2e6, 0.0)),
        *((3e-6, 1e-5), (5e-4, 6e-3), (0.999999, 1.0), (1.0, 1e6), (1e-9, 1e9)),
    ],
)
def test_tick_labels_stand_apart(low, high):
    """At or below zero the axis is linear; above it is logarithmic, over more or less."""
    steps = np.linspace(0, 1, 12)
    logarithmic = np.exp(np.log(low) + np.log(high / low) * steps) if low > 0 else None
    values = low + (high - low) * steps if logarithmic is None else logarithmic
    columns = {f"{name}{part}": v for name in MEASURES for part, v in (("", values), ("_error", 0))}
    runs = study_runs(seeds=6, variants=("none",)).assign(**columns)
    figure = drawn(against_gap(runs))
    assert labels_too_near(figure) == []
    left, right = figure.axes[0].get_xlim()
    assert sum(left <= tick <= right for tick in figure.axes[0].get_xticks()) >= 2


def test_a_measure_without_a_correlation_is_refused():
    with pytest.raises(ValueError, match=r"correlations lacks \['top_eigenvalue'\]; it has \[\]"):
        analysis.sharpness_against_gap(study_runs(), ["top_eigenvalue"], {})
