"""Shards of a study as jobs: of a Slurm that stands in for one, and of this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxsharp import cli
from jaxsharp.cli.submit import local
from tests.cli.submitting import STUDY, TABLES, in_one_process, refused, stand_in, submitted


@pytest.fixture(autouse=True)
def one_process(monkeypatch, tmp_path):
    in_one_process(monkeypatch, tmp_path)


def test_a_dry_run_prints_both_scripts_and_writes_nothing(capsys):
    calls = stand_in("sbatch")
    asked = ("--time", "1-02:00:00", "--partition", "gpu", "--grace", "60", "--command", "srun js")
    more = ("--sbatch", "gres=gpu:1", "exclusive", "--setup", "module load cuda")
    submitted("--dry-run", *asked, *more)
    text = capsys.readouterr().out
    assert not os.listdir() and not calls.exists()
    train, merge = re.split(r"^# .*/merge\.sh$", text, flags=re.M)
    both = ("time=1-02:00:00", "partition=gpu", "gres=gpu:1", "exclusive", f"chdir={Path.cwd()}")
    for part in (train, merge):
        assert all(f"#SBATCH --{option}\n" in part for option in both)
        assert part.index("module load cuda\n") > part.rindex("#SBATCH")
    for option in ("array=1-3", "requeue", "signal=B:TERM@60", "open-mode=append"):
        assert f"#SBATCH --{option}\n" in train
    assert "array" not in merge and "requeue" not in merge
    parts = " ".join(str(Path("grid-parts").absolute() / f"{i}of3") for i in (1, 2, 3))
    assert f"\nsrun js merge {parts} --out {Path('grid').absolute()}\n" in merge


def test_slurm_gets_the_array_and_a_merge_that_waits_for_it(capsys):
    calls = stand_in("sbatch", 'echo "4${#@};cluster"')
    submitted()
    out = capsys.readouterr().out
    folder = Path("grid-parts").absolute()
    first, second = calls.read_text().splitlines()
    assert first == f"--parsable {folder}/shards.sh"
    waits = "--dependency=afterok:42 --kill-on-invalid-dep=yes"
    assert second == f"--parsable {waits} {folder}/merge.sh"
    assert out.startswith(f"job 42: 3 shards of 4 runs into {folder}; job 44 merges them into ")
    assert sorted(os.listdir(folder)) == ["merge.sh", "shards.sh"]


def test_without_sbatch_the_scripts_are_written_and_said(capsys):
    submitted()
    assert "there is no sbatch here; written: " in capsys.readouterr().out
    assert sorted(os.listdir("grid-parts")) == ["merge.sh", "shards.sh"]


def test_what_sbatch_refuses_is_one_line(capsys):
    stand_in("sbatch", "echo 'sbatch: error: no such partition' >&2; exit 1")
    said = refused(capsys)
    assert "sbatch ended with 1 and says 'sbatch: error: no such partition'" in said
    stand_in("sbatch", '[ "$#" = 2 ] && echo 7 || { echo busy; exit 3; }')
    said = refused(capsys)
    assert "job 7 trains the shards, and none merges them: sbatch ended with 3" in said


def script(*lines):
    """The script of the array, whose jaxsharp is a program of these lines; and its calls."""
    calls = stand_in("js", *lines)
    submitted("--command", "js")
    return Path("grid-parts/shards.sh"), calls


def test_a_job_of_the_array_trains_its_shard(capsys):
    file, calls = script("exit 3")
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "9"}
    assert subprocess.run(["bash", str(file)], env=env).returncode == 3
    part = Path("grid-parts").absolute() / "2of3"
    want = f"study {' '.join(STUDY)} --quiet --shard 2/3 --out {part}\n"
    assert calls.read_text() == want


def catches_term(pid):
    """Whether a process has a handler for SIGTERM by now (Linux)."""
    (line,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(line, 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize(("code", "requeued"), [(130, True), (0, False)])
def test_a_job_before_its_limit_saves_and_is_queued_again(code, requeued):
    """The shell has SIGTERM twice, the command once; it ends after its epoch."""
    file, _ = script(
        "trap 'echo heard >> heard' TERM",
        "touch started; for i in $(seq 100); do sleep 0.05; [ -s heard ] && break; done",
        f"sleep 0.4; exit {code}",
    )
    again = stand_in("scontrol")
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "9"}
    env["SLURM_JOB_ID"] = "9"  # as the array, which is so for one of its tasks
    job = subprocess.Popen(["bash", str(file)], env=env)
    while not (Path("started").exists() and catches_term(job.pid)):
        assert job.poll() is None
    for _ in range(2):
        job.send_signal(signal.SIGTERM)
        threading.Event().wait(0.15)
    assert job.wait(30) == code
    assert Path("heard").read_text() == "heard\n"
    assert (again.read_text() if again.exists() else "") == "requeue 9_1\n" * requeued


def in_this_process(command, log):
    """A shard in the place of a process."""
    cli.main(command[3:])
    return SimpleNamespace(poll=lambda: 0, returncode=0, terminate=lambda: None)


def same_tables():
    cli.main(["study", *STUDY, "--out", "whole", "--quiet"])
    for name in TABLES:
        assert Path("grid", name).read_bytes() == Path("whole", name).read_bytes(), name


@pytest.mark.slow
def test_shards_that_run_here_are_the_whole_study(monkeypatch):
    monkeypatch.setattr(local, "start", in_this_process)
    submitted("--local", study=[*STUDY, "--epochs", "1"])
    submitted("--local")  # which goes on with all of them
    assert {"1of3", "2of3", "3of3"} <= set(os.listdir("grid-parts"))
    same_tables()


@pytest.mark.slow
def test_shards_as_processes_are_the_whole_study():
    root = Path(__file__).parents[2]
    submitted(
        "--local",
        "--processes",
        "2",
        "--command",
        f"env PYTHONPATH={root} {sys.executable} -m jaxsharp",
    )
    same_tables()


def test_a_shard_that_fails_is_one_line_and_the_others_are_not_begun(capsys):
    calls = stand_in("js", "echo first; echo the last line >&2; exit 5")
    said = refused(capsys, "--local", "--command", "js")
    log = Path("grid-parts").absolute() / "1of3.log"
    assert f"a shard ended with 5 ({log}) and says 'the last line'" in said
    assert len(calls.read_text().splitlines()) == 1


def test_an_interrupt_is_passed_on_once_to_all_that_run():
    wait = "until [ -s $1 ]; do sleep 0.02; done; for i in 1 2 3 4 5 6; do sleep 0.05; done"
    stand_in("js", "trap 'echo x >> $1' TERM", "touch $1", wait, "exit 130")
    logs = {Path(f"{i}.log"): ["js", f"shard{i}"] for i in range(3)}

    def interrupt():
        while not (Path("shard0").exists() and Path("shard1").exists()):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        local.run(logs, 2)
    thread.join()
    assert [Path(f"shard{i}").exists() for i in range(3)] == [True, True, False]
    assert Path("shard0").read_text() == Path("shard1").read_text() == "x\n"
