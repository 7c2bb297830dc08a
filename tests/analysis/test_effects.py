"""Figures of gap and measures against what a study varies."""

import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis import canvas
from tests.drawings import (
    MEASURES,
    NAN,
    containers,
    drawn,
    labels_too_near,
    legend,
    study_runs,
    varied_runs,
)

BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 50000)
RATES = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)


def summary_of(runs, varied):
    return analysis.summarize(runs, ["optimizer", "sam", *varied], {"gap": (-1, 1)}, MEASURES[:1])


@pytest.mark.slow
def test_each_quantity_against_a_setting_with_its_intervals():
    varied = {"learning_rate": (0.1, 0.001, 0.01), "batch_size": (32, 128)}
    runs = varied_runs(varied)
    summary = summary_of(runs, varied)
    figure = drawn(analysis.against_setting(summary, "learning_rate", MEASURES[:1], list(varied)))
    panels = np.reshape(figure.axes, (2, 2))
    for sam, row in zip(("none", "sam"), panels, strict=True):
        part = summary[summary["sam"] == sam]
        for panel, mean, name in zip(
            row, ("gap_mean", "minimum_sharpness_geomean"), ("gap", MEASURES[0]), strict=True
        ):
            lines = part.groupby(["optimizer", "batch_size"], sort=False)
            for (container, marker, _), (key, line) in zip(containers(panel), lines, strict=True):
                line = line.sort_values("learning_rate")
                points, _, (bars,) = container.lines
                found = points.get_xdata() / line["learning_rate"]
                assert (abs(np.log10(found)) < 0.251).all()
                np.testing.assert_array_equal(points.get_ydata(), line[mean])
                ends = np.array([segment[:, 1] for segment in bars.get_segments()])
                np.testing.assert_allclose(ends, line[[f"{name}_low", f"{name}_high"]], rtol=1e-9)
                assert marker == {"sgd": "o", "adam": "s"}[key[0]]
    assert [tick.get_text() for tick in panels[1, 0].get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert panels[1, 0].get_xscale() == "log"
    assert panels[0, 1].get_yscale() == "log" and panels[0, 0].get_yscale() == "linear"
    assert [panel.get_xlabel() for panel in panels[1]] == ["learning rate"] * 2
    assert legend(figure) == ["sgd", "adam", "batch size 32", "batch size 128"]


def test_a_setting_that_only_variants_have_is_drawn_for_these():
    runs = varied_runs({"rho": (0.01, 0.1)})
    runs = runs[(runs["sam"] == "sam") | (runs["rho"] == 0.1)]
    runs.loc[runs["sam"] == "none", "rho"] = NAN
    figure = drawn(
        analysis.against_setting(summary_of(runs, ["rho"]), "rho", MEASURES[:1], ["rho"])
    )
    assert len(figure.axes) == 2 and all(len(panel.containers) == 2 for panel in figure.axes)


def test_wide_intervals_do_not_flatten_the_means():
    runs = varied_runs({"momentum": (0.0, 0.9)})
    runs.loc[0, "minimum_sharpness"] *= 1e4
    summary = summary_of(runs, ["momentum"])
    means = summary["minimum_sharpness_geomean"]
    assert summary["minimum_sharpness_high"].max() > 1e4 * means.max()
    figure = drawn(analysis.against_setting(summary, "momentum", MEASURES[:1], ["momentum"]))
    low, high = figure.axes[1].get_ylim()
    assert means.min() / 30 < low < means.min() and means.max() < high < 30 * means.max()


@pytest.mark.parametrize(
    ("setting", "values", "scale"),
    [
        ("batch_size", BATCH_SIZES, "log"),
        ("learning_rate", RATES, "log"),
        ("batch_size", (16, 32), "linear"),
        ("momentum", (0.0, 0.9, 0.99), "linear"),
        ("label_noise", tuple(np.arange(11) / 10), "linear"),
        ("average", ("ema", "none", "swa"), "linear"),
    ],
)
def test_values_stand_on_a_logarithmic_axis_if_they_can_and_ticks_apart(setting, values, scale):
    """Each line passes its values in order; ticks are at values alone, and never touch."""
    row = study_runs(variants=("none",))
    runs = pd.concat([row.assign(**{setting: value}) for value in values], ignore_index=True)
    summary = summary_of(runs, [setting])
    figure = drawn(analysis.against_setting(summary, setting, MEASURES[:1], [setting]))
    assert labels_too_near(figure) == []
    for panel in figure.axes:
        assert panel.get_xscale() == scale
        named = dict(zip(values if scale == "log" else range(len(values)), values, strict=True))
        low, high = panel.get_xlim()
        assert low < min(named) and max(named) < high
        labels = [f"{v:g}" if not isinstance(v, str) else v for v in named.values()]
        ticks = {tick.get_loc(): tick.label1.get_text() for tick in panel.xaxis.get_major_ticks()}
        assert len(ticks) >= 2 and ticks.items() <= dict(zip(named, labels, strict=True)).items()
        for container, _, _ in containers(panel):
            found = container.lines[0].get_xdata()
            assert (np.diff(found) > 0).all() and low < found[0] and found[-1] < high


@pytest.mark.slow
def test_means_of_runs_that_did_not_all_converge_are_hollow():
    runs = varied_runs({"learning_rate": RATES}, variants=("none",))
    unconverged = (runs["learning_rate"] == 1e-4) & (runs["seed"] == 1)

    def hollow(panel):
        return [line for line in panel.lines if line.get_markerfacecolor() == "white"]

    def by_measure():
        summary = summary_of(runs, ["learning_rate"])
        options = "learning_rate", MEASURES[:1], ["learning_rate"]
        return drawn(analysis.against_setting(summary, *options))

    figure = by_measure()
    assert not any(hollow(panel) for panel in figure.axes)
    assert legend(figure) == ["sgd", "adam"]
    runs.loc[unconverged, "converged"] = False
    figure = by_measure()
    for panel in figure.axes:
        lines = containers(panel)
        for line, (container, marker, _) in zip(hollow(panel), lines, strict=True):
            assert line.get_marker() == marker
            first = [values[:1] for values in container.lines[0].get_data()]
            np.testing.assert_array_equal(line.get_data(), first)
    assert legend(figure) == ["sgd", "adam", "not all converged"]
    runs["diverged"] = unconverged  # they enter no mean
    assert legend(by_measure()) == ["sgd", "adam"]
    runs["diverged"], runs["converged"] = False, NAN  # there is no rule
    assert legend(by_measure()) == ["sgd", "adam"]


def summaries():
    """A measure that falls with both settings, below zero at one point, by its mean."""
    found = {}
    for setting, values in (("batch_size", BATCH_SIZES), ("learning_rate", RATES)):
        runs = varied_runs({setting: values}, variants=("none",))
        order = runs[setting].rank(method="dense")
        runs = runs.assign(
            rise=1 / order + 0.01 * runs["seed"] + 0.1 * (runs["optimizer"] == "sgd")
        )
        found[setting] = analysis.summarize(runs, ["optimizer", setting], {"rise": (-9, 9)})
    return found


def test_a_measure_against_two_settings_side_by_side():
    tables = summaries()
    figure = drawn(analysis.side_by_side(tables, "rise"))
    assert labels_too_near(figure) == [] and len(figure.axes) == 2
    for (setting, table), panel, letter in zip(tables.items(), figure.axes, "ab", strict=True):
        assert panel.get_title(loc="left") == f"({letter})"
        assert panel.get_xlabel() == setting.replace("_", " ") and panel.get_xscale() == "log"
        lines = zip(containers(panel), table.groupby("optimizer", sort=False), strict=True)
        for (container, marker, _), (optimizer, line) in lines:
            points, _, (bars,) = container.lines
            np.testing.assert_array_equal(points.get_ydata(), line["rise_mean"])
            ends = np.array([segment[:, 1] for segment in bars.get_segments()])
            np.testing.assert_allclose(ends, line[["rise_low", "rise_high"]], rtol=1e-9)
            assert marker == {"sgd": "o", "adam": "s"}[optimizer]
    assert [panel.get_ylabel() for panel in figure.axes] == ["rise", ""]
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    first, second = (panel.get_tightbbox() for panel in figure.axes)
    assert first.x1 < second.x0, "labels of neighbouring panels touch"


def test_one_optimizer_alone_looks_as_it_does_among_all():
    tables = summaries()
    both = drawn(analysis.side_by_side(tables, "rise"))
    alone = drawn(
        analysis.side_by_side({"batch_size": tables["batch_size"]}, "rise", optimizers=["adam"])
    )
    (panel,) = alone.axes
    ((container, marker, face),) = containers(panel)
    assert (marker, face) == containers(both.axes[0])[1][1:]
    assert (marker, container.lines[0].get_color()) == ("s", canvas.RED)
    assert panel.get_title(loc="left") == "" and legend(alone) == ["adam"]


def test_means_that_are_not_positive_have_a_linear_axis():
    tables = summaries()
    assert drawn(analysis.side_by_side(tables, "rise")).axes[0].get_yscale() == "log"
    tables["batch_size"].loc[0, ["rise_mean", "rise_low", "rise_high"]] = [-0.001, -0.1, 0.1]
    panels = drawn(analysis.side_by_side(tables, "rise")).axes
    assert [panel.get_yscale() for panel in panels] == ["linear"] * 2


def test_tables_without_their_columns_are_refused():
    with pytest.raises(ValueError, match="summaries is empty"):
        analysis.side_by_side({}, "rise")
    table = summaries()["batch_size"]
    for setting, measure, missing in (("rho", "rise", "rho"), ("batch_size", "norm", "norm_low")):
        with pytest.raises(ValueError, match=f"the table of {setting} has no column {missing}"):
            analysis.side_by_side({setting: table}, measure)
