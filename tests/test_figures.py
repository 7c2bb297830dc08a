"""Figures: what is drawn where, read back from the artists, and what is written to disk."""

import importlib
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from jaxsharp import canvas, figures, stats
from jaxsharp.optimizers import SHARPNESS_AWARE

NAN = float("nan")
MEASURES = ["minimum_sharpness", "top_eigenvalue"]
VARIANTS = ("none", "sam", "asam")


def one_history(optimizer="sgd", sam="none", seed=0, epochs=5):
    """A run whose losses fall from 1 and 2, by the epoch, the seed and the variant."""
    epoch = np.arange(1, epochs + 1)
    loss = np.exp(-0.3 * epoch * (1 + 0.1 * seed + 0.02 * len(sam)))
    return pd.DataFrame(
        {
            "optimizer": optimizer,
            "sam": sam,
            "seed": seed,
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": 1 - loss / 2,
            "test_loss": 2 * loss,
            "test_accuracy": 0.9 - loss / 2,
        }
    )


def study_history(optimizers=("sgd", "adam"), seeds=3, variants=VARIANTS):
    """Every run of a small study; the later seeds stop later."""
    return pd.concat(
        [
            one_history(optimizer, sam, seed, epochs=5 + seed)
            for optimizer in optimizers
            for sam in variants
            for seed in range(seeds)
        ],
        ignore_index=True,
    )


def study_runs(optimizers=("sgd", "adam"), seeds=3, variants=("none", "sam")):
    """Runs whose sharpness and gap are increasing with the row."""
    keys = [(o, sam, s) for o in optimizers for sam in variants for s in range(seeds)]
    runs = pd.DataFrame(keys, columns=["optimizer", "sam", "seed"])
    row = np.arange(len(runs))
    return runs.assign(
        converged=True,
        diverged=False,
        gap=5.0 + row,
        minimum_sharpness=10.0 * 1.5**row,
        minimum_sharpness_error=0.5 + row,
        top_eigenvalue=row - 1.5,
        top_eigenvalue_error=0.25,
    )


def against_gap(runs, measures=MEASURES):
    correlations = {
        name: stats.correlation(runs, name, "gap", ["optimizer", "sam"], num_resamples=50)
        for name in measures
    }
    return figures.sharpness_against_gap(runs, measures, correlations)


def curves(panel, linestyle):
    return [line for line in panel.lines if line.get_linestyle() == linestyle]


def marks(panel, marker):
    return [line for line in panel.lines if line.get_marker() == marker]


def texts(panel):
    return [text.get_text() for text in panel.texts]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def drawn(figure):
    """The figure, after everything that only happens when it is drawn."""
    figure.draw_without_rendering()
    return figure


# Training curves


def test_every_run_has_its_own_line_in_the_panel_of_its_optimizer():
    history = study_history()
    figure = drawn(figures.training_curves(history))
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
    figure = drawn(figures.training_curves(pd.concat([good, bad], ignore_index=True)))
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
    (panel,) = figures.training_curves(history).axes
    assert panel.get_yscale() == "linear"
    assert panel.get_ylim()[0] < 0 and panel.get_ylim()[1] > history["test_loss"].max()


def test_one_epoch_is_seen_as_dots_above_an_integer():
    (panel,) = drawn(figures.training_curves(one_history(epochs=1))).axes
    assert [line.get_xdata()[0] for line in marks(panel, "o")] == [1, 1]
    left, right = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if left <= tick <= right] == [1]


@pytest.mark.parametrize(("num", "shape"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (6, (2, 3))])
def test_panels_fill_a_grid(num, shape):
    names = [f"method{i}" for i in range(num)]
    figure = drawn(figures.training_curves(study_history(names, seeds=1)))
    assert [panel.get_title() for panel in figure.axes] == names
    assert figure.axes[0].get_gridspec().get_geometry() == shape


def test_the_outer_panels_have_the_labels():
    names = [f"method{i}" for i in range(5)]
    figure = drawn(figures.training_curves(study_history(names, seeds=1)))
    assert [panel.get_xlabel() for panel in figure.axes] == ["", "", "epoch", "epoch", "epoch"]
    shown = [any(t.get_visible() for t in panel.get_xticklabels()) for panel in figure.axes]
    assert shown == [False, False, True, True, True]
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels == ["loss (nats)", "", "", "loss (nats)", ""]
    shown = [any(t.get_visible() for t in panel.get_yticklabels()) for panel in figure.axes]
    assert shown == [True, False, False, True, False]


def test_a_panel_without_finite_losses_says_so_and_leaves_the_others_their_ticks():
    history = study_history(seeds=1)
    history.loc[history["optimizer"] == "sgd", ["train_loss", "test_loss"]] = NAN
    empty, full = drawn(figures.training_curves(history)).axes
    assert texts(empty) == [canvas.NOTHING] and not empty.lines
    assert texts(full) == [] and len(full.get_xticks()) > 1


@pytest.mark.parametrize("losses", [NAN, np.inf])
def test_nothing_to_draw_is_said(losses):
    history = one_history().assign(train_loss=losses, test_loss=losses)
    for table in (history, history[:0]):
        (panel,) = drawn(figures.training_curves(table)).axes
        assert texts(panel) == [canvas.NOTHING]
        assert len(panel.get_xticks()) == len(panel.get_yticks()) == 0


# Sharpness against the gap


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
        (curve,) = figures.training_curves(study_history(["sgd"], 1, variants)).axes
        colors = [line.get_color() for line in curves(curve, "-")]
        assert colors[variants.index("none")] == canvas.BLUE
        runs = study_runs(["sgd"], 1, variants)
        (points,) = against_gap(runs, MEASURES[:1]).axes
        shapes = [marker for _, marker, _ in containers(points)]
        assert shapes[variants.index("none")] == "o"
        assert len(set(colors)) == len(set(shapes)) == len(variants)
    assert canvas.BLUE not in [
        line.get_color() for line in figures.training_curves(one_history(sam="sam")).axes[0].lines
    ]


def test_the_title_has_both_coefficients_and_the_runs_behind_them():
    runs = study_runs()
    correlation = stats.Correlation(
        raw=stats.Coefficient(0.714, 0.6, 0.806),
        within=stats.Coefficient(-0.25, -0.5, 0.001),
        pearson=stats.Coefficient(NAN, NAN, NAN),
        spearman=stats.Coefficient(NAN, NAN, NAN),
        num_runs=34,
        num_pairs=561,
        num_within_pairs=30,
        excluded={"diverged": 2, "unconverged": 0, "not finite": 1},
        confidence=0.9,
    )
    figure = figures.sharpness_against_gap(runs, MEASURES[:1], {MEASURES[0]: correlation})
    assert figure.axes[0].get_title().split("\n") == [
        "Kendall's τ, raw: +0.71 (90%: +0.60 to +0.81)",
        "within groups: -0.25 (90%: -0.50 to +0.00)".replace("-", "\N{MINUS SIGN}"),
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
        figures.sharpness_against_gap(study_runs(), ["top_eigenvalue"], {})


# Single runs


def test_run_curves_show_loss_and_accuracy_in_percent():
    histories = {"plain": one_history(), "with SAM": one_history(sam="sam", epochs=8)}
    figure = drawn(figures.run_curves(histories))
    loss, accuracy = figure.axes
    for panel, name, factor in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for linestyle, split in (("-", "train"), ("--", "test")):
            lines = curves(panel, linestyle)
            for line, history in zip(lines, histories.values(), strict=True):
                np.testing.assert_array_equal(line.get_xdata(), history["epoch"])
                expected = factor * history[f"{split}_{name}"]
                np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-15)
            assert [line.get_color() for line in lines] == [canvas.BLUE, canvas.RED]
        assert len(marks(panel, "o")) == 4
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss (nats)", "accuracy (%)")
    assert legend(figure)[:4] == ["plain", "with SAM", "training data", "test data"]


def test_run_curves_of_many_runs_have_as_many_colours_and_a_legend_inside_the_page():
    histories = {f"results/of/a/long/name/run{i:02d}": one_history(seed=i) for i in range(12)}
    figure = drawn(figures.run_curves(histories))
    assert len({line.get_color() for line in curves(figure.axes[0], "-")}) == 12
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert box.y1 <= min(panel.get_window_extent().y0 for panel in figure.axes)
    assert min(panel.get_window_extent().height for panel in figure.axes) > 0.3 * figure.bbox.height


def test_run_curves_of_nothing_say_so():
    for histories in ({}, {"new": one_history()[:0]}):
        figure = drawn(figures.run_curves(histories))
        assert [texts(panel) for panel in figure.axes] == [[canvas.NOTHING]] * 2


def test_legends_of_whole_studies_stay_inside_the_page():
    names = ["sgd", "heavy_ball", "adagrad", "adam", "adashift", "adabound"]
    variants = ["none", *SHARPNESS_AWARE]
    runs = study_runs(names, variants=variants)
    for measures in (MEASURES[:1], MEASURES, [*MEASURES, *MEASURES[:1]]):
        figure = drawn(against_gap(runs, measures))
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    for num in (1, 2, 3, 4):
        figure = drawn(figures.training_curves(study_history(names[:num], 1, variants)))
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


# Files and globals


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "PNG"])
def test_equal_tables_give_equal_bytes_and_nothing_else(suffix, tmp_path, monkeypatch):
    for clock, name in (("0", "first"), ("1000000000", "second")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", clock)  # another day
        canvas.save(against_gap(study_runs()), tmp_path / f"{name}.{suffix}")
    first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix.lower()]
    assert first.read_bytes().startswith(start)
    assert b"Software" not in first.read_bytes()


def test_different_tables_give_different_bytes(tmp_path):
    for epochs in (5, 6):
        figure = figures.training_curves(one_history(epochs=epochs))
        canvas.save(figure, tmp_path / f"{epochs}.png")
    assert (tmp_path / "5.png").read_bytes() != (tmp_path / "6.png").read_bytes()


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_text("old")

    def fail(self, file, **options):
        file.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        canvas.save(Figure(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"its suffix must be one of \.png, \.pdf, \.svg"):
        canvas.save(Figure(), tmp_path / "figure.xyz")
    assert not list(tmp_path.iterdir())


def test_nothing_global_changes_or_matters(tmp_path):
    before = dict(mpl.rcParams)
    canvas.save(figures.training_curves(study_history()), tmp_path / "plain.png")
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        canvas.save(figures.training_curves(study_history()), tmp_path / "user.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "user.png").read_bytes()


def test_pyplot_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    for module in (canvas, figures):
        importlib.reload(module)
    canvas.save(figures.run_curves({"run": one_history()}), tmp_path / "run.png")
    assert (tmp_path / "run.png").exists()
