"""Figures of training curves, of studies and of single runs, read back from the artists."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxsharp import analysis
from jaxsharp.analysis import canvas
from jaxsharp.curvature import SpectralDensity
from tests.drawings import (
    NAN,
    VARIANTS,
    curves,
    drawn,
    legend,
    marks,
    one_history,
    study_history,
    texts,
)


def test_every_run_has_its_own_line_in_the_panel_of_its_optimizer():
    history = study_history()
    figure = drawn(analysis.training_curves(history))
    assert [panel.get_title() for panel in figure.axes] == ["sgd", "adam"]
    for panel in figure.axes:
        part = history[history["optimizer"] == panel.get_title()]
        runs = part.groupby(["sam", "seed"], sort=False)
        for linestyle, column in (("-", "train_loss"), ("--", "test_loss")):
            for line, (key, run) in zip(curves(panel, linestyle), runs, strict=True):
                np.testing.assert_array_equal(line.get_xdata(), run["epoch"])
                np.testing.assert_array_equal(line.get_ydata(), run[column])
                assert line.get_color() == canvas.PALETTE[VARIANTS.index(key[0])]
        ends = sorted(int(line.get_xdata()[0]) for line in marks(panel, "o"))
        assert ends == [5] * 6 + [6] * 6 + [7] * 6
        assert not marks(panel, "x")
        assert panel.get_yscale() == "log"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_ylabel() == "loss (nats)"
    assert legend(figure) == [
        *("without SAM", "sam", "asam", "training data", "test data", "end of a run")
    ]


def test_a_run_that_diverges_ends_in_a_cross_and_does_not_stretch_the_axis():
    bad = one_history(seed=1).assign(
        train_loss=[1.0, 3.0, 1e9, NAN, NAN], test_loss=[2.0, 4.0, 1e12, np.inf, NAN]
    )
    good = one_history(seed=0)
    figure = drawn(analysis.training_curves(pd.concat([good, bad], ignore_index=True)))
    (panel,) = figure.axes
    np.testing.assert_array_equal(curves(panel, "-")[1].get_ydata(), [1.0, 3.0, 1e9])
    top = good["test_loss"].max()
    crosses = [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks(panel, "x")]
    assert crosses == [(3, top), (3, top)]
    low = good["train_loss"].min()
    assert low / 1.5 < panel.get_ylim()[0] < low and top < panel.get_ylim()[1] < 1.5 * top
    assert legend(figure)[-1] == "loss not finite"


def test_a_loss_of_zero_takes_a_linear_axis_that_shows_it():
    history = one_history().assign(train_loss=[0.5, 0.4, 0.2, 0.1, 0.0])
    (panel,) = analysis.training_curves(history).axes
    assert panel.get_yscale() == "linear"
    assert panel.get_ylim()[0] < 0 and panel.get_ylim()[1] > history["test_loss"].max()


def test_one_epoch_is_seen_as_dots_above_an_integer():
    (panel,) = drawn(analysis.training_curves(one_history(epochs=1))).axes
    assert [line.get_xdata()[0] for line in marks(panel, "o")] == [1, 1]
    left, right = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if left <= tick <= right] == [1]


def test_a_panel_without_finite_losses_says_so_and_leaves_the_others_their_ticks():
    history = study_history(seeds=1)
    history.loc[history["optimizer"] == "sgd", ["train_loss", "test_loss"]] = NAN
    empty, full = drawn(analysis.training_curves(history)).axes
    assert texts(empty) == [canvas.NOTHING] and not empty.lines
    assert texts(full) == [] and len(full.get_xticks()) > 1


@pytest.mark.parametrize("losses", [NAN, np.inf])
def test_nothing_to_draw_is_said(losses):
    history = one_history().assign(train_loss=losses, test_loss=losses)
    for table in (history, history[:0]):
        (panel,) = drawn(analysis.training_curves(table)).axes
        assert texts(panel) == [canvas.NOTHING]
        assert len(panel.get_xticks()) == len(panel.get_yticks()) == 0


def test_run_curves_show_loss_and_accuracy():
    histories = {"plain": one_history(), "with SAM": one_history(sam="sam", epochs=8)}
    figure = drawn(analysis.run_curves(histories))
    loss, accuracy = figure.axes
    for panel, name in ((loss, "loss"), (accuracy, "accuracy")):
        for linestyle, split in (("-", "train"), ("--", "test")):
            lines = curves(panel, linestyle)
            for line, history in zip(lines, histories.values(), strict=True):
                np.testing.assert_array_equal(line.get_xdata(), history["epoch"])
                np.testing.assert_array_equal(line.get_ydata(), history[f"{split}_{name}"])
            assert [line.get_color() for line in lines] == [canvas.BLUE, canvas.RED]
        assert len(marks(panel, "o")) == 4
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss (nats)", "accuracy")
    assert legend(figure)[:4] == ["plain", "with SAM", "training data", "test data"]


def test_run_curves_of_many_runs_have_as_many_colours_and_a_legend_inside_the_page():
    histories = {f"results/of/a/long/name/run{i:02d}": one_history(seed=i) for i in range(12)}
    figure = drawn(analysis.run_curves(histories))
    assert len({line.get_color() for line in curves(figure.axes[0], "-")}) == 12
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert box.y1 <= min(panel.get_window_extent().y0 for panel in figure.axes)
    assert min(panel.get_window_extent().height for panel in figure.axes) > 0.3 * figure.bbox.height


def test_run_curves_of_nothing_say_so():
    for histories in ({}, {"new": one_history()[:0]}):
        figure = drawn(analysis.run_curves(histories))
        assert [texts(panel) for panel in figure.axes] == [[canvas.NOTHING]] * 2


def rules(top=3.0, dimension=1000):
    """The density of a spectrum: 0, and one eigenvalue in a hundred at 1 or at `top`."""
    nodes = jnp.asarray([[0.0, 1.0, top], [0.0, 1.0, top]])
    weights = jnp.asarray([[0.99, 0.006, 0.004], [0.99, 0.002, 0.008]])
    return SpectralDensity(nodes, weights, jnp.int32(6), dimension)


@pytest.mark.slow
def test_densities_are_drawn_smoothed_with_their_errors_down_to_one_eigenvalue():
    both = {"sgd": rules(), "sam": rules(2.0, dimension=500)}
    figure = drawn(analysis.spectral_densities(both, width=0.1))
    (panel,) = figure.axes
    assert legend(figure) == ["sgd", "sam"] and panel.get_yscale() == "log"
    for line, band, density in zip(panel.lines, panel.collections, both.values(), strict=True):
        mean, _ = density.smoothed(jnp.asarray(line.get_xdata()), 0.1)
        np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-6)
        corners = band.get_paths()[0].vertices
        at_one = corners[np.isclose(corners[:, 0], 1.0, atol=1e-3), 1]
        expected = density.smoothed(jnp.ones(1), 0.1)
        height, error = float(expected.mean[0]), float(expected.stderr[0])
        np.testing.assert_allclose(
            [at_one.min(), at_one.max()], [height - error, height + error], 0.01
        )
    one_eigenvalue = 1 / (1000 * 0.1 * np.sqrt(2 * np.pi))
    low, high = panel.get_ylim()
    assert 0.01 * one_eigenvalue < low < 0.1 * one_eigenvalue * 1.01
    assert high > 0.99 / (0.1 * np.sqrt(2 * np.pi))
    low, high = panel.get_xlim()
    assert low < -0.3 and high > 3.3


@pytest.mark.slow
def test_a_density_of_one_value_has_a_width_and_one_that_is_not_finite_is_left_out():
    flat = rules()._replace(nodes=jnp.full((2, 3), 5.0))
    figure = drawn(analysis.spectral_densities({"flat": flat, "bad": rules(NAN)}))
    (panel,) = figure.axes
    (line,) = panel.lines
    assert np.isclose(line.get_xdata()[np.argmax(line.get_ydata())], 5.0, atol=1e-3)
    assert "0.05 wide" in panel.get_ylabel()
    nothing = drawn(analysis.spectral_densities({"bad": rules(NAN)}))
    assert texts(nothing.axes[0]) == [canvas.NOTHING]
    with pytest.raises(ValueError, match="width is 0"):
        analysis.spectral_densities({"flat": flat}, width=0.0)


def test_what_is_followed_is_drawn_beside_its_edges():
    history = study_history(seeds=2, variants=("none", "sam"))
    every = history["epoch"] % 2 == 0
    history["sharpness"] = (10.0 + history["epoch"]).where(every)
    history["sharpness_edge"] = (20.0 * history["seed"]).where(every & (history["seed"] == 1))
    history["norm"] = -1.0 * history["epoch"]
    figure = drawn(analysis.tracked_curves(history, ["sharpness", "norm"], ["optimizer", "sam"]))
    assert [panel.get_title() for panel in figure.axes] == ["sgd", "adam"] * 2
    upper, lower = figure.axes[0], figure.axes[2]
    values, edges = curves(upper, "-"), curves(upper, "--")
    assert [list(line.get_xdata()) for line in values] == [[2, 4], [2, 4, 6]] * 2
    assert [list(line.get_ydata()) for line in values] == [[12, 14], [12, 14, 16]] * 2
    assert [list(line.get_ydata()) for line in edges] == [[20, 20, 20]] * 2
    assert edges[0].get_color() == values[0].get_color() != values[2].get_color()
    assert upper.get_yscale() == "log" and lower.get_yscale() == "linear"
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("sharpness", "norm")
    assert not curves(lower, "--") and legend(figure) == ["without SAM", "sam", "edge"]
