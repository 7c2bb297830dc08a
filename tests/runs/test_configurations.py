"""A single run whose config.json is lost: made again from its checkpoints, or refused in a line."""

import os
from dataclasses import replace

import pytest

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.runs import RunError, claims, directory, reading
from jaxsharp.training import members
from tests.folders import MADE_FROM, damage, history_to, state_at
from tests.savedruns import CONFIG, saved_run


def make(path, *epochs, config=CONFIG):
    claims.claim_run(path, config)
    for epoch in epochs:
        directory.save(path, state_at(epoch), history_to(epoch), MADE_FROM, config)
    return path


def lose(path, how):
    """Damage a config.json; its bytes before."""
    file = path / "config.json"
    whole = file.read_bytes()
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(whole[:60] if how == "cut off" else whole.replace(b"adam", b"adem"))
    return whole


@pytest.mark.parametrize("how", ["deleted", "cut off", "changed"])
def test_it_is_written_anew_as_a_checkpoint_has_it(tmp_path, how):
    run, lines = make(tmp_path / "run", 2, 4), []
    whole = lose(run, how)
    damage(run / "checkpoints" / "epoch_0004")
    directory.keep_config(run, CONFIG, lines.append)
    assert (run / "config.json").read_bytes() == whole
    said = "missing" if how == "deleted" else "damaged, and now damaged-config.json"
    ending = "it is written anew, as checkpoint epoch_0002 has it"
    assert lines == [f"{run / 'config.json'} is {said}; {ending}"]
    assert (run / "damaged-config.json").exists() == (how != "deleted")
    directory.keep_config(run, CONFIG, pytest.fail)


@pytest.mark.parametrize("how", ["deleted", "cut off", "changed"])
def test_that_of_another_run_is_not_made_up(tmp_path, how):
    """Whatever differs, also what no checkpoint's arrays or programs would tell."""
    run = make(tmp_path / "run", 2)
    lose(run, how)
    before = sorted(p.name for p in run.rglob("*"))
    rate = replace(CONFIG.settings, learning_rate=0.5)
    for other, said in (
        (replace(CONFIG, seed=4), "seed 3 -> 4"),
        (replace(CONFIG, settings=rate), "learning_rate None -> 0.5"),
    ):
        with pytest.raises(RunError, match=f"epoch_0002 is intact and of another run \\({said}"):
            directory.keep_config(run, other, pytest.fail)
    assert sorted(p.name for p in run.rglob("*")) == before


def test_without_a_checkpoint_that_says_what_it_is_the_line_says_what_is_intact(tmp_path):
    older, broken = saved_run(tmp_path / "older", 2, 4), make(tmp_path / "broken", 2)
    damage(broken / "checkpoints" / "epoch_0002")
    for run, left in (
        (older, "epoch_0004 is intact and does not say"),
        (broken, "no checkpoint is"),
    ):
        lose(run, "deleted")
        with pytest.raises(
            RunError, match=f"config.json is missing, and {left}.*put .* back"
        ) as line:
            directory.keep_config(run, CONFIG, pytest.fail)
        assert "\n" not in str(line.value) and "fresh" not in str(line.value)
    hostile = make(tmp_path / "hostile", 2, config=replace(CONFIG, optimizer="../victim"))
    lose(hostile, "deleted")
    with pytest.raises(RunError, match=r"configuration\.json: optimizer is '\.\./victim'"):
        directory.keep_config(hostile, CONFIG, pytest.fail)
    directory.keep_config(tmp_path / "nothing", CONFIG, pytest.fail)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("how", ["deleted", "cut off", "changed"])
def test_what_only_reads_says_that_the_command_writes_it_anew(tmp_path, how):
    run = make(tmp_path / "run", 2)
    lose(run, how)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=r"config\.json.*; the command that trained the run writes"):
        claims.read_run_config(run)
    with pytest.raises(RunError, match="the command that trained the run writes it anew"):
        reading.histories([run])
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.fixture
def train(monkeypatch, capsys):
    """The command, in this process; what it writes to stderr."""
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)

    def command(out, *options):
        small = ["--train-size", "200", "--epochs", "4", "--loss-below", "None", "--quiet"]
        losses = ["--save-losses", "2.5,2.3", "--learning-rate", "0.1"]
        cli.main(["train", *small, *losses, *options, "--out", str(out)])
        return capsys.readouterr().err.splitlines()

    return command


@pytest.mark.slow
def test_train_makes_what_of_its_losses_is_lost_again_and_says_so(train, tmp_path):
    out = tmp_path / "run"
    assert train(out) == []
    content = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    (out / "config.json").unlink()
    (line,) = train(out)
    assert line.endswith(
        "config.json is missing; it is written anew, as checkpoint epoch_0004 has it"
    )
    assert {p: p.read_bytes() for p in content} == content
    config = claims.read_run_config(out)
    names = sorted(os.listdir(out / "checkpoints"))
    assert len(names) > 1 and names[-1] == "epoch_0004"
    damage(out / "checkpoints" / names[0])
    (line,) = train(out)
    assert f"{names[0]}, at the first epoch below a loss, cannot be read: arrays.npz is" in line
    assert line.endswith("is trained again from the start")
    (out / "checkpoints" / names[0]).rename(tmp_path / "elsewhere")
    (line,) = train(out)
    assert f"{names[0]}, at the first epoch below a loss, cannot be read: it is missing" in line
    assert {p: p.read_bytes() for p in content} == content
    with pytest.raises(SystemExit):
        (out / "config.json").unlink()
        train(out, "--seed", "5")
    assert not (out / "config.json").exists() and config.seed == 0
