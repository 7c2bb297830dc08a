"""A run's folder takes more epochs, and forgets what was measured at an end that is none now."""

from dataclasses import replace

import pytest

from jaxsharp.runs import Settings, claims, directory, growth, read_run_config, read_sharpness
from tests.folders import STUDY, make_run

MEMBER = STUDY.members()[0]


def more(**changes):
    return replace(MEMBER, settings=replace(MEMBER.settings, **{"epochs": 8, **changes}))


def left(path):
    """Epochs and measurements that a run's folder has."""
    return read_run_config(path).settings.epochs, len(read_sharpness(path))


def test_a_run_without_its_end_is_measured_anew_and_an_ended_one_is_not(tmp_path):
    for name, ends, kept in (
        ("unconverged", {}, 0),
        ("converged", {"converged": True}, 1),
        ("diverged", {"diverged": True}, 1),
    ):
        path = make_run(tmp_path / name, MEMBER, **ends)
        directory.train_on(path, MEMBER)
        assert left(path) == (3, 1)
        directory.train_on(path, more())
        assert left(path) == (8, kept)
        claims.keep_run(path, more(), pytest.fail)
    directory.train_on(tmp_path / "none", more())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("changes", [{"epochs": 2}, {"batch_size": 9}, {"schedule": "step"}])
def test_another_run_is_left_as_it_is(tmp_path, changes):
    path = make_run(tmp_path / "run", MEMBER)
    directory.train_on(path, more(**changes))
    assert left(path) == (3, 1)
    scheduled = replace(MEMBER, settings=replace(MEMBER.settings, schedule="step"))
    path = make_run(tmp_path / "step", scheduled)
    directory.train_on(path, more(schedule="step"))
    assert left(path) == (3, 1)


@pytest.mark.parametrize("content", ["{", None])
def test_where_nothing_says_how_many_epochs_it_had_it_is_measured_anew(tmp_path, content):
    for name, ends, kept in (("unconverged", {}, 0), ("converged", {"converged": True}, 1)):
        path = make_run(tmp_path / name, MEMBER, **ends)
        (path / "config.json").unlink()
        if content is not None:
            (path / "config.json").write_text(content)
        directory.train_on(path, more())
        claims.keep_run(path, more(), lambda line: None)
        assert left(path) == (8, kept)


def test_a_lost_configuration_of_a_study_comes_back_in_the_middle_of_its_growth(tmp_path):
    for member in STUDY.members():
        make_run(tmp_path / "runs" / member.name, member)
    grown = replace(STUDY, settings=more().settings)
    first = tmp_path / "runs" / MEMBER.name
    directory.train_on(first, grown.members()[0])
    lines = []
    claims.keep_study(tmp_path, grown.as_dict(), grown.members(), lines.append)
    assert len(lines) == 1 and claims.read_config(tmp_path)["settings"]["epochs"] == 8


def test_a_warm_up_and_averages_do_not_depend_on_the_last_epoch():
    same = Settings(epochs=5, warmup_epochs=2, average="ema", average_after=1, patience=3)
    assert growth.obstacle(same, replace(same, epochs=6)) is None
    assert growth.obstacle(same, same) is None
    for schedule in ("linear", "cosine", "step", "exponential"):
        found = replace(same, schedule=schedule)
        assert growth.obstacle(found, found) is None
        assert schedule in growth.obstacle(found, replace(found, epochs=6))
        assert "not taken back" in growth.obstacle(found, replace(found, epochs=4))
    assert not growth.is_before({"seed": "x"}, MEMBER)
