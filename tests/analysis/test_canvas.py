"""What all figures share: grids, labels and legends, files that are written, no global state."""

import importlib
import sys

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from jaxsharp import analysis
from jaxsharp.analysis import canvas, comparisons, effects, figures
from jaxsharp.optimizers import SHARPNESS_AWARE
from tests.drawings import MEASURES, against_gap, drawn, one_history, study_history, study_runs


@pytest.mark.parametrize(("num", "shape"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (6, (2, 3))])
def test_panels_fill_a_grid(num, shape):
    names = [f"method{i}" for i in range(num)]
    figure = drawn(analysis.training_curves(study_history(names, seeds=1)))
    assert [panel.get_title() for panel in figure.axes] == names
    assert figure.axes[0].get_gridspec().get_geometry() == shape


@pytest.mark.slow
def test_the_outer_panels_have_the_labels():
    names = [f"method{i}" for i in range(5)]
    figure = drawn(analysis.training_curves(study_history(names, seeds=1)))
    assert [panel.get_xlabel() for panel in figure.axes] == ["", "", "epoch", "epoch", "epoch"]
    shown = [any(t.get_visible() for t in panel.get_xticklabels()) for panel in figure.axes]
    assert shown == [False, False, True, True, True]
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels == ["loss (nats)", "", "", "loss (nats)", ""]
    shown = [any(t.get_visible() for t in panel.get_yticklabels()) for panel in figure.axes]
    assert shown == [True, False, False, True, False]


@pytest.mark.slow
def test_legends_of_whole_studies_stay_inside_the_page():
    names = ["sgd", "heavy_ball", "adagrad", "adam", "adashift", "adabound"]
    variants = ["none", *SHARPNESS_AWARE]
    runs = study_runs(names, variants=variants)
    for measures in (MEASURES[:1], [*MEASURES, *MEASURES[:1]]):
        figure = drawn(against_gap(runs, measures))
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    for num in (1, 2, 3, 4):
        figure = drawn(analysis.training_curves(study_history(names[:num], 1, variants)))
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_figure_is_in_the_formats_named_and_anew_in_those_that_are_there(tmp_path):
    first, second = (analysis.training_curves(one_history(epochs=n)) for n in (5, 6))
    canvas.save_as(first, tmp_path / "a.b", ["svg", "pdf"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.pdf", "a.b.svg"]
    old = (tmp_path / "a.b.pdf").read_bytes()
    canvas.save_as(second, tmp_path / "a.b", ["png"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.pdf", "a.b.png", "a.b.svg"]
    canvas.save(second, tmp_path / "alone.pdf")
    new = (tmp_path / "a.b.pdf").read_bytes()
    assert new == (tmp_path / "alone.pdf").read_bytes() != old
    with pytest.raises(ValueError, match="format is 'eps'; it must be one of png, pdf, svg"):
        canvas.save_as(first, tmp_path / "none", ["png", "eps"])
    assert not list(tmp_path.glob("none*"))


def test_different_tables_give_different_bytes(tmp_path):
    for epochs in (5, 6):
        figure = analysis.training_curves(one_history(epochs=epochs))
        canvas.save(figure, tmp_path / f"{epochs}.png")
    assert (tmp_path / "5.png").read_bytes() != (tmp_path / "6.png").read_bytes()


@pytest.mark.parametrize("named", [(), (".figure.png.tmp",)])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, named):
    path = tmp_path / "figure.png"
    path.write_text("old")

    def fail(self, file, **options):
        file.write_text("half")
        raise OSError(28, "no space left", *named)

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match=rf"no space left: '{path}'$"):
        canvas.save(Figure(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"its suffix must be one of \.png, \.pdf, \.svg"):
        canvas.save(Figure(), tmp_path / "figure.xyz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_global_changes_or_matters(tmp_path):
    before = dict(mpl.rcParams)
    canvas.save(analysis.training_curves(study_history()), tmp_path / "plain.png")
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        canvas.save(analysis.training_curves(study_history()), tmp_path / "user.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "user.png").read_bytes()


def test_pyplot_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    for module in (canvas, comparisons, effects, figures):
        importlib.reload(module)
    canvas.save(analysis.run_curves({"run": one_history()}), tmp_path / "run.png")
    assert (tmp_path / "run.png").exists()
