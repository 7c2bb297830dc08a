"""Whose a directory is: configurations that clash, are damaged, or belong to something else."""

import contextlib
import json
import os
import shutil
from dataclasses import asdict, replace

import pytest

from jaxsharp import runs
from jaxsharp.runs import RunError, Settings, claims, directory, files
from tests import savedruns
from tests.folders import STUDY, make_study
from tests.savedruns import CONFIG

run = savedruns.run  # the fixture


def test_a_configuration_reads_back(tmp_path):
    claims.claim_run(tmp_path / "run", CONFIG)
    assert runs.read_run_config(tmp_path / "run") == CONFIG
    claims.claim_run(tmp_path / "run", CONFIG)  # the same one may continue


def test_another_configuration_is_refused_by_field_and_nothing_changes(tmp_path):
    path = tmp_path / "run"
    claims.claim_run(path, CONFIG)
    (path / "history.csv").write_text("kept")
    other = replace(CONFIG, seed=4, settings=Settings(epochs=8))
    with pytest.raises(RunError, match=r"seed 3 -> 4, epochs 7 -> 8.*--fresh"):
        claims.claim_run(path, other)
    assert runs.read_run_config(path) == CONFIG
    assert (path / "history.csv").read_text() == "kept"
    (path / "runs" / "deep").mkdir(parents=True)
    claims.claim_run(path, other, fresh=True)
    assert runs.read_run_config(path) == other
    assert os.listdir(path) == ["config.json"]


def test_a_variant_that_does_not_exist_is_refused_by_name(tmp_path):
    claims.claim(tmp_path / "run", {**asdict(CONFIG), "sam": "sma"})
    with pytest.raises(RunError, match=r"config\.json: sam is 'sma'; it must be one of none, "):
        runs.read_run_config(tmp_path / "run")


def test_folders_that_are_no_runs_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(RunError, match=r"holds files but no config\.json"):
            claims.claim_run(tmp_path, CONFIG, fresh=fresh)
        with pytest.raises(RunError, match=r"holds files but no config\.json"):
            with claims.claimed(tmp_path, asdict(CONFIG), fresh=fresh):
                raise AssertionError("claimed")
        with pytest.raises(RunError, match="is a file"):
            claims.claim_run(tmp_path / "thesis.tex", CONFIG, fresh=fresh)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("text", ['{"port": 8080}', "[1, 2]", "3"])
def test_a_config_file_of_another_program_is_left_alone(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for fresh in (False, True):
        with pytest.raises(RunError, match="not that of a run or study"):
            claims.claim_run(tmp_path, CONFIG, fresh=fresh)
    assert (tmp_path / "config.json").read_text() == text


def test_directories_that_hold_no_single_run_are_named(tmp_path):
    with pytest.raises(RunError, match=r"has no config\.json"):
        runs.read_run_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "digits", "seeds": 3}))
    with pytest.raises(RunError, match="not the directory of a single run"):
        runs.read_run_config(tmp_path)
    for content in (b"{", b"", b'{"a": "\xff"}'):
        (tmp_path / "config.json").write_bytes(content)
        for fresh in (False, True):
            with pytest.raises(RunError, match=r"not valid JSON.*restore it, or choose another"):
                claims.claim_run(tmp_path, CONFIG, fresh=fresh)


def test_a_changed_configuration_is_refused_and_fresh_starts_over(run):
    file = run / "config.json"
    file.write_text(file.read_text().replace('"epochs": 7', '"epochs": 8'))
    for use in (
        claims.read_config,
        runs.read_run_config,
        lambda path: claims.claim_run(path, CONFIG),
    ):
        with pytest.raises(RunError, match=r"json is damaged: .* restore it, or choose another"):
            use(run)
    claims.claim_run(run, CONFIG, fresh=True)
    assert runs.read_run_config(run) == CONFIG
    assert directory.latest_checkpoint(run) is None


def test_a_configuration_of_an_older_version_is_taken(tmp_path):
    old = asdict(CONFIG)
    for name in ("momentum", "weight_decay"):
        del old["settings"][name]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert runs.read_run_config(tmp_path) == CONFIG
    claims.claim_run(tmp_path, CONFIG)
    with pytest.raises(RunError, match=r"momentum None -> 0\.5"):
        claims.claim_run(tmp_path, replace(CONFIG, settings=Settings(epochs=7, momentum=0.5)))


def test_a_claimed_directory_is_locked_even_while_it_starts_over(run):
    with claims.claimed(run, asdict(CONFIG), fresh=True):
        assert directory.latest_checkpoint(run) is None
        with pytest.raises(files.InUseError, match="run is in use by process"):
            with claims.claimed(run, asdict(CONFIG)):
                raise AssertionError("two holders")
    with claims.claimed(run, asdict(CONFIG)):
        assert runs.read_run_config(run) == CONFIG


def test_what_a_process_leaves_that_is_killed_while_it_claims_is_no_obstacle(tmp_path):
    for name in (".tmp-config.json", ".lock", ".lock.json"):
        (tmp_path / name).write_text("{")
    claims.claim_run(tmp_path, CONFIG)
    assert runs.read_run_config(tmp_path) == CONFIG


def test_what_makes_a_directory_a_run_is_deleted_last(run, monkeypatch):
    rmtree = shutil.rmtree
    (run / "runs").mkdir()

    def fail(path):
        if path.name == "runs":
            raise OSError("interrupted")
        rmtree(path)

    monkeypatch.setattr(claims.shutil, "rmtree", fail)
    with pytest.raises(OSError, match="interrupted"):
        claims.claim_run(run, CONFIG, fresh=True)
    monkeypatch.undo()
    claims.claim_run(run, CONFIG, fresh=True)
    assert os.listdir(run) == ["config.json"]


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_a_study_writes_a_damaged_configuration_of_its_run_anew(tmp_path, damage):
    path, lines = tmp_path / "run", []
    claims.keep_run(path, CONFIG, lines.append)
    file = path / "config.json"
    whole = file.read_bytes()
    (path / "history.csv").write_text("kept")
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(whole[:20] if damage == "truncate" else whole.replace(b"adam", b"adem"))
    claims.keep_run(path, CONFIG, lines.append)
    assert file.read_bytes() == whole and (path / "history.csv").read_text() == "kept"
    assert lines == [f"{file} is missing or damaged; it is written anew"]
    with pytest.raises(RunError, match="seed 3 -> 4"):
        claims.keep_run(path, replace(CONFIG, seed=4), lines.append)


def test_starting_over_removes_links_and_not_what_they_lead_to(run, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.tex").write_text("years of work")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(victim)
    (run / "history.csv").unlink()
    (run / "history.csv").symlink_to(victim / "thesis.tex")
    (run / ".tmp-config.json").symlink_to(victim / "thesis.tex")
    for fresh in (False, True):
        with contextlib.ExitStack() as stack:
            if not fresh:
                stack.enter_context(pytest.raises(files.ForeignError, match="a link; put"))
            stack.enter_context(claims.claimed(run, asdict(CONFIG), fresh=fresh))
    assert sorted(os.listdir(run)) == [".lock", "config.json"]
    assert (victim / "thesis.tex").read_text() == "years of work"


def test_a_truth_value_is_no_number_of_a_configuration(run):
    """Nor does a field outside of the settings stand for one inside."""
    found = claims.read_config(run)
    for changed, said in (
        ({**found, "seed": True}, "seed True -> 3"),
        ({**found, "epochs": 7, "settings": {**found["settings"], "epochs": 9}}, "epochs 9 -> 7"),
        ({**found, "epochs": 7}, "'epochs' 7 -> None"),
    ):
        claims.write_config(run, changed)
        with pytest.raises(RunError, match=said):
            claims.claim_run(run, CONFIG)
    claims.write_config(run, {**found, "seed": True})
    with pytest.raises(RunError, match="seed True -> 1"):
        claims.claim_run(run, replace(CONFIG, seed=1))


def lost(out, how):
    """Damage the config.json of a study; its bytes before."""
    file = out / "config.json"
    whole = file.read_bytes()
    if how == "deleted":
        file.unlink()
    elif how == "cut off":
        file.write_bytes(whole[:40])
    else:
        file.write_bytes(whole.replace(b'"seeds": 2', b'"seeds": 3'))
    return whole


@pytest.mark.parametrize("how", ["deleted", "cut off", "changed"])
def test_a_studys_configuration_is_written_anew_if_its_runs_agree(tmp_path, how):
    out, lines = make_study(tmp_path / "study"), []
    whole = lost(out, how)
    (out / "runs" / ".DS_Store").touch()
    (out / "runs" / "notes").mkdir()
    last = out / "runs" / STUDY.members()[-1].name
    shutil.rmtree(last)  # a study that was interrupted
    damaged = out / "runs" / STUDY.members()[0].name / "config.json"
    damaged.write_text("{")
    claims.keep_study(out, STUDY.as_dict(), STUDY.shard_members(), lines.append)
    assert (out / "config.json").read_bytes() == whole
    aside = "missing" if how == "deleted" else "damaged, and now damaged-config.json"
    (line,) = lines
    assert line.startswith(f"{out / 'config.json'} is {aside}; it is written anew")
    assert (out / "damaged-config.json").exists() == (how != "deleted")
    claims.keep_study(out, STUDY.as_dict(), STUDY.shard_members(), pytest.fail)


def test_a_studys_configuration_is_not_made_up(tmp_path):
    """Where a run is none of what is asked for, or nothing says what the folder was."""
    out = make_study(tmp_path / "study")
    lost(out, "deleted")
    for other in (replace(STUDY, seeds=1), replace(STUDY, settings=Settings(epochs=2))):
        with pytest.raises(RunError, match=r"config\.json is missing or damaged, and .* is no run"):
            claims.keep_study(out, other.as_dict(), other.shard_members(), pytest.fail)
    foreign = tmp_path / "foreign"
    (foreign / "runs").mkdir(parents=True)
    claims.keep_study(foreign, STUDY.as_dict(), STUDY.shard_members(), pytest.fail)
    (out / "config.json").write_text('{"port": 8080}')  # of another program
    claims.keep_study(out, STUDY.as_dict(), STUDY.shard_members(), pytest.fail)
    assert (out / "config.json").read_text() == '{"port": 8080}'
    assert os.listdir(foreign) == ["runs"]


def test_no_message_on_damage_advises_to_delete_what_is_whole(tmp_path):
    out = make_study(tmp_path / "study")
    for folder in (out / "runs" / STUDY.members()[0].name, out):
        lost(folder, "cut off")
        with pytest.raises(claims.DamagedConfigError, match=r"that made .* writes it anew$"):
            claims.read_config(folder)


def test_a_place_inside_of_a_run_a_study_or_a_checkpoint_is_refused(tmp_path):
    out = make_study(tmp_path / "study")
    run = out / "runs" / STUDY.members()[0].name
    copied = shutil.copytree(directory.checkpoints(run)[0], tmp_path / "copied")
    for place, what, folder in (
        (out / "runs" / "new", "study", out),
        (out / "new", "study", out),
        (run, "study", out),
        (run / "checkpoints" / "new", "run", run),
        (run / "curves.png", "run", run),
        (copied / "deep" / "new", "checkpoint", copied),
    ):
        with pytest.raises(RunError, match=f"{place} is inside of the {what} {folder}; choose"):
            claims.check_outside(place)
        if not place.exists():
            with pytest.raises(RunError, match="is inside of"), claims.claimed(place, {}):
                raise AssertionError("claimed")
            assert not place.exists()
    (tmp_path / "config.json").write_text('{"dataset": "of another program"}')
    (tmp_path / "SHA256SUMS").touch()
    for place in (out, tmp_path / "new", copied):
        claims.check_outside(place)


def test_what_systems_and_editors_leave_is_no_content(tmp_path):
    path, names = tmp_path / "run", [".DS_Store", "Thumbs.db", ".nfs01", "x~", ".gitignore"]
    path.mkdir()
    for name in names:
        (path / name).touch()
    (path / ".#config.json").symlink_to("user@host.1")  # Emacs
    (path / "lost+found").mkdir(mode=0)
    (path / ".git").mkdir()
    (path / ".git" / "link").symlink_to("elsewhere")
    with claims.claimed(path, asdict(CONFIG)):
        assert runs.read_run_config(path) == CONFIG
    claims.claim_run(path, replace(CONFIG, seed=4), fresh=True)
    assert {*names, ".#config.json"} < {*os.listdir(path)}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "results.csv").touch()
    with pytest.raises(RunError, match="holds files but no"):
        claims.claim_run(tmp_path / "full", CONFIG)


def test_the_advice_is_that_of_the_command(run):
    other = asdict(replace(CONFIG, seed=4))
    with pytest.raises(RunError, match=r"\(--out\); --fresh would delete what is there$"):
        claims.is_claimed(run, other)
    with pytest.raises(RunError, match=r"seed 3 -> 4\); go elsewhere$"):
        with claims.claimed(run, other, advice="go elsewhere"):
            raise AssertionError("claimed")
