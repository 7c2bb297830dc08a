"""Figures of losses along lines and over planes, read back from the artists."""

import numpy as np
import pytest

from jaxsharp import analysis
from tests.drawings import NAN, drawn, labels_too_near, legend


def test_every_line_is_drawn_with_gaps_where_the_loss_is_not_finite():
    losses = {"first": [1.0, 0.5, 2.0], "second": [NAN, 50.0, np.inf]}
    figure = drawn(analysis.loss_lines([-1.0, 0.0, 1.0], losses, label="share"))
    (panel,) = figure.axes
    assert panel.get_yscale() == "log" and panel.get_xlabel() == "share"
    assert panel.get_ylabel() == "loss (nats)" and legend(figure) == ["first", "second"]
    for line, want in zip(panel.lines, ([1.0, 0.5, 2.0], [NAN, 50.0, NAN]), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [-1.0, 0.0, 1.0])
        np.testing.assert_array_equal(line.get_ydata(), want)
    assert len({line.get_color() for line in panel.lines}) == 2
    assert not labels_too_near(figure)


def test_a_line_of_small_range_is_linear():
    figure = drawn(analysis.loss_lines([0.0, 1.0], {"one": [1.0, 2.0]}))
    assert figure.axes[0].get_yscale() == "linear"


def test_a_plane_has_its_losses_and_its_points():
    xs, ys = np.linspace(-1, 1, 5), np.linspace(-2, 2, 7)
    losses = 0.1 + xs**2 + 5 * ys[:, None] ** 2
    losses[0, 0] = NAN
    points = {"trained": (0.0, 0.0), "other": (0.5, 1.0)}
    figure = drawn(analysis.loss_plane(xs, ys, losses, points=points, labels=("x", "y")))
    panel, bar = figure.axes
    filled = panel.collections[0]
    np.testing.assert_allclose(filled.levels[[0, -1]], [np.nanmin(losses), np.nanmax(losses)])
    assert (
        filled.norm.vmin == filled.levels[0]
        and len(set(np.diff(np.log(filled.levels)).round(9))) == 1
    )
    box = panel.dataLim
    np.testing.assert_allclose([*box.min, *box.max], [-1, -2, 1, 2])  # rows are ys
    assert (panel.get_xlabel(), panel.get_ylabel(), bar.get_ylabel()) == ("x", "y", "loss (nats)")
    assert legend(figure) == list(points)
    assert [tuple(map(float, line.get_xydata()[0])) for line in panel.lines] == list(
        points.values()
    )
    assert len({line.get_marker() for line in panel.lines}) == 2
    assert not labels_too_near(figure)


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf])
def test_nothing_is_drawn_where_the_loss_is_not_finite(value):
    losses = np.add.outer(np.arange(3.0), np.arange(3.0))
    losses[0, 2] = value
    filled = analysis.loss_plane([0, 1, 2], [0, 1, 2], losses).axes[0].collections[0]
    covers = lambda *point: any(path.contains_point(point) for path in filled.get_paths())  # noqa: E731
    assert covers(0.4, 1.3) and covers(1.4, 1.7) and not covers(1.8, 0.2)


@pytest.mark.parametrize("places", [[0, 2, 1], [0, 1, 1], [0, 1, NAN]])
def test_places_of_a_plane_increase(places):
    losses = np.ones((3, 3))
    with pytest.raises(ValueError, match="xs do not increase"):
        analysis.loss_plane(places, [0, 1, 2], losses)
    with pytest.raises(ValueError, match="ys do not increase"):
        analysis.loss_plane([0, 1, 2], places, losses)


def test_a_plane_of_one_loss_can_be_drawn():
    filled = drawn(analysis.loss_plane([0, 1], [0, 1], np.ones((2, 2)))).axes[0].collections[0]
    assert filled.levels[0] == 0.5 and filled.levels[-1] == 1.5


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [((3, 2), 1.0, r"shape \(3, 2\) for 3 xs and 2 ys"), ((2, 3), NAN, "no finite number")],
)
def test_bad_planes_are_named(shape, value, message):
    with pytest.raises(ValueError, match=message):
        analysis.loss_plane([0, 1, 2], [0, 1], np.full(shape, value))


def test_bad_lines_are_named():
    with pytest.raises(ValueError, match=r"losses of a have shape \(2,\); it must be that of dist"):
        analysis.loss_lines([0, 1, 2], {"a": [1, 2]})
