"""How far a study is: written while it runs, read off its folder otherwise."""

import json
import os
import time

import pytest

from jaxsharp.runs import RunError, claims, columns, files
from jaxsharp.studies import status
from jaxsharp.studies.study import Progress
from tests.folders import STUDY, damage, make_run, make_study

PROGRESS = Progress("sgd", "epoch 3", 4, 2, 1, 0, 1, 10, 20, 2.5, {})


@pytest.fixture
def half(tmp_path):
    """A study of which one run is finished, one diverged, one half trained and one not begun."""
    out = tmp_path / "study"
    claims.claim(out, STUDY.as_dict())
    first, second, third, _ = STUDY.members()
    make_run(out / "runs" / first.name, first)
    make_run(out / "runs" / second.name, second, epoch=1, diverged=True, measures=())
    make_run(out / "runs" / third.name, third, epoch=2, measures=())
    return out


def test_a_status_reads_back(half):
    written = status.Status(1.0, 2.0, 4, 2, 1, 0, 1, 10, 20, 2.5, None, "sgd: epoch 3")
    status.write(half, written)
    assert status.read(half) == written


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "3", '{"members": 3}', "not utf-8 \udcff", "null"]
)
def test_without_a_valid_file_the_runs_are_counted(half, text):
    if text is not None:
        (half / "status.json").write_bytes(text.encode(errors="surrogateescape"))
    found = status.read(half)
    assert (found.members, found.trained, found.measured) == (4, 2, 1)
    assert (found.converged, found.diverged) == (0, 1)
    assert (found.steps_done, found.steps_total) == (3 + 3 + 2 + 1, 4 * (3 + 1))
    assert found.remaining_s is None and abs(found.updated - time.time()) < 60


def test_a_file_whose_numbers_are_none_is_not_taken(half):
    status.write(half, status.derive(half))
    file = half / "status.json"
    for name in ("members", "remaining_s", "updated"):
        file.write_text(json.dumps({**json.loads(file.read_text()), name: "many"}))
        assert status.read(half).members == 4


def test_a_board_writes_at_once_then_every_second_and_at_the_end(half, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(status.time, "time", lambda: now[0])
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    seen = []
    with status.Board(half) as board:
        for _ in range(5):
            board.update(PROGRESS._replace(steps=10 + len(seen)))
            seen.append(status.read(half).steps_done)
            now[0] += 0.5
    assert seen == [10, 10, 12, 12, 14]
    board.update(PROGRESS._replace(steps=15))
    assert status.read(half).steps_done == 14
    last = board.latest
    assert last.started == 100.0 and last.updated == 102.5
    # Five steps since this process began, in 2.5 seconds; what it found done does not count.
    assert last.remaining_s == pytest.approx((20 - 15) * 2.5 / 5)
    assert (last.members, last.trained, last.converged, last.measured) == (4, 2, 1, 1)
    assert last.text == "sgd: epoch 3" and last.epochs_per_second == 2.5


def test_an_interruption_leaves_the_latest_status(half):
    with pytest.raises(KeyboardInterrupt):
        with status.Board(half) as board:
            board.update(PROGRESS)
            board.update(PROGRESS._replace(steps=11))
            raise KeyboardInterrupt
    assert status.read(half).steps_done == 11


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path):
    with status.Board(tmp_path / "absent") as board:
        board.update(PROGRESS)
    assert not (tmp_path / "absent").exists()


def test_a_study_is_described(half):
    lines = status.describe(half).splitlines()
    assert lines[0] == f"{half}: small_mlp on digits"
    assert lines[1] == "grid: optimizers sgd, adam; sam none; seeds 2"
    assert lines[2].startswith("not running; last news ")
    assert lines[3] == "4 runs: 2 trained (0 converged, 1 diverged), 1 measured"
    assert lines[4] == "steps: 9 of at most 16" and len(lines) == 5


def test_a_running_study_is_described_with_its_process(half):
    with files.lock(half), status.Board(half) as board:
        board.update(PROGRESS)
        board.write()
        text = status.describe(half)
    assert f"running as process {os.getpid()} on " in text
    assert "steps: 10 of at most 20; 2.5 epochs/s" in text and "at work: sgd: epoch 3" in text
    assert "running as" not in status.describe(half)


def test_what_is_damaged_is_named(half):
    names = [member.name for member in STUDY.members()]
    run = half / "runs" / names[2]
    assert "damaged: " not in status.describe(half)
    damage(run / "checkpoints" / "epoch_0002")
    (half / "runs" / names[1] / "checkpoints" / "damaged-epoch_0001").mkdir()
    table = half / "runs" / names[0] / "sharpness.csv"
    table.write_text(table.read_text().replace("1.5", "1.6"))
    config = run / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 5'))
    damaged = [line for line in status.describe(half).splitlines() if line.startswith("damaged: ")]
    assert len(damaged) == 4
    for file in (run / "checkpoints" / "epoch_0002", table, config):
        assert any(str(file) in line for line in damaged)
    assert any("damaged-epoch_0001 was set aside" in line for line in damaged)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"has no config\.json"):
        status.describe(tmp_path)
    run = make_run(tmp_path / "run", STUDY.members()[0])
    for use in (status.describe, status.read):
        with pytest.raises(RunError, match="is not the folder of a study"):
            use(run)


def test_a_finished_study_has_all_its_steps(tmp_path):
    found = status.derive(make_study(tmp_path / "study"))
    assert found.members == found.trained == found.measured == 4
    assert found.steps_done == found.steps_total


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3.0, "0 s"), (59.6, "60 s"), (300.0, "5 min"), (7300.0, "2 h"), (3e5, "3 days")],
)
def test_durations_are_read_in_the_unit_that_fits(seconds, text):
    assert status.duration(seconds) == text


def test_what_is_no_run_of_a_study_is_not_named(half):
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (half / "runs" / name).touch()
    (half / "runs" / "old run").mkdir()
    assert "damaged: " not in status.describe(half)


def test_measurements_that_are_none_are_named_and_counted_as_missing(tmp_path):
    out = make_study(tmp_path / "study")
    run = out / "runs" / STUDY.members()[0].name
    rows = [["top_eigenvalue", "", 1.0, -1.0, "residual", 1, 12, "Hessian products", 9, 1, 0]]
    files.write_rows(run / "sharpness.csv", tuple(columns.SHARPNESS), rows)
    said = status.describe(out)
    assert "4 trained (0 converged, 0 diverged), 3 measured" in said
    assert f"damaged: {run / 'sharpness.csv'} has the row" in said


@pytest.mark.slow
def test_several_runs_and_studies_and_folders_of_them_are_described(half, tmp_path, monkeypatch):
    run = make_run(tmp_path / "single", STUDY.members()[0])
    begun = tmp_path / "begun"
    claims.claim_run(begun, STUDY.members()[1])
    damage(run / "checkpoints" / "epoch_0003")
    broken = make_study(tmp_path / "broken")
    (broken / "config.json").write_text("{")
    now = time.time()
    monkeypatch.setattr(status.time, "time", lambda: now)
    texts = status.describe_all([run, half]).split("\n\n")
    assert texts == [status.describe_run(run), status.describe(half)]
    lines = texts[0].splitlines()
    assert lines[0] == f"{run}: sgd, seed 0, small_mlp on digits"
    assert lines[1].startswith("not running; last news ")
    assert lines[2:4] == ["trained: epoch_0003 (ended)", "measured: top_eigenvalue"]
    assert lines[4].startswith(f"damaged: {run / 'checkpoints' / 'epoch_0003'}: ")
    assert "trained: not yet (at most 3 epochs)\nmeasured: nothing" in status.describe_run(begun)
    paths = [text.partition(": ")[0] for text in status.describe_all([tmp_path]).split("\n\n")]
    assert paths == [str(path) for path in sorted((run, half, begun, broken))]
    with pytest.raises(RunError, match=r"not valid JSON.*the command that made the study writes"):
        status.describe_all([broken])
    (broken / "config.json").unlink()
    (broken / "status.json").touch()
    with pytest.raises(RunError, match=r"no config\.json; the command that made the study writes"):
        status.describe_all([broken])
