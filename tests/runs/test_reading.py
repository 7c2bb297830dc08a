"""What is trained, read by those who change nothing: parameters, histories, ends of runs."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxsharp import runs
from jaxsharp.runs import RunError, Settings, checkpoint, claims, directory, files, reading
from jaxsharp.runs.config import labels
from tests import savedruns
from tests.folders import MADE_FROM, STUDY, damage, history_to, make_run, make_study, state_at
from tests.savedruns import CONFIG

run = savedruns.run  # the fixture, with checkpoints after 2 and 4 epochs


def content(path):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()}


def test_parameters_are_read_without_a_network(run):
    before = content(run)
    params, stats = runs.load_parameters(run)
    np.testing.assert_array_equal(params["w"], np.full(3, np.float32(4 / 3)))
    assert list(params) == ["w"] and params["w"].dtype == np.float32 and stats == {}
    earlier, _ = runs.load_parameters(str(run / "checkpoints" / "epoch_0002"))
    np.testing.assert_array_equal(earlier["w"], np.full(3, np.float32(2 / 3)))
    assert content(run) == before


def test_parameters_are_nested_as_they_were(tmp_path):
    """Dictionaries, lists and named fields, whose keys and numbers become texts."""
    inner = {"kernel": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "bias": np.float32(2)}
    tree = state_at(1)._replace(
        params={"layers": [inner, {"kernel": np.zeros((0, 2), np.int8)}], "3": inner["bias"]},
        stats={"norm": {"mean": np.ones(2)}},
        opt_state={"params": {"never": np.ones(1)}},
    )
    checkpoint.save(tmp_path / "state", tree)
    params, stats = runs.load_parameters(tmp_path / "state")
    assert sorted(params) == ["3", "layers"] and sorted(params["layers"]) == ["0", "1"]
    np.testing.assert_array_equal(params["layers"]["0"]["kernel"], inner["kernel"])
    assert params["layers"]["1"]["kernel"].shape == (0, 2) and params["3"] == 2
    assert jax.tree.map(np.shape, stats) == {"norm": {"mean": (2,)}}


def test_damaged_parameters_are_refused_with_the_last_whole_checkpoint(run):
    damage(run / "checkpoints" / "epoch_0004")
    before = content(run)
    for path in (run, run / "checkpoints" / "epoch_0004"):
        with pytest.raises(checkpoint.DamagedError, match=r"epoch_0004 .* whole one is epoch_0002"):
            runs.load_parameters(path)
    assert content(run) == before
    damage(run / "checkpoints" / "epoch_0002")
    with pytest.raises(checkpoint.DamagedError, match=r"as it was written; no other is whole$"):
        runs.load_parameters(run)


def test_what_is_no_array_of_numbers_is_refused(tmp_path):
    for number, array in enumerate((np.array(["text"]), np.zeros(2, "V2"), np.zeros(2, "f4,f4"))):
        checkpoint.save(tmp_path / str(number), {"params": {"w": array}})
        with pytest.raises(ValueError, match=r"it has tree\.params\.w as .* numbers$"):
            runs.load_parameters(tmp_path / str(number))
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match="is no checkpoint, and no run that has one yet"):
            runs.load_parameters(path)
    (tmp_path / "0" / "link").symlink_to(tmp_path)
    with pytest.raises(files.ForeignError, match="a link"):
        runs.load_parameters(tmp_path / "0")


def test_the_end_of_a_run_is_read_and_nothing_is_renamed(run):
    like = state_at(1)
    directory.save(run, state_at(7), history_to(7), MADE_FROM)
    assert int(reading.load_end(run, like, MADE_FROM, 7).epoch) == 7
    damage(run / "checkpoints" / "epoch_0004")
    assert int(reading.load_end(run, like, MADE_FROM, 7).epoch) == 7
    damage(run / "checkpoints" / "epoch_0007")
    (run / "history.csv").write_text("wrong")
    before = content(run)
    said = r"epoch_0007 cannot be read: .* written; the last whole one is epoch_0002; give"
    with pytest.raises(RunError, match=said):
        reading.load_end(run, like, MADE_FROM, 7)
    shutil.rmtree(run / "checkpoints" / "epoch_0007")
    shutil.rmtree(run / "checkpoints" / "epoch_0004")
    with pytest.raises(RunError, match="is not trained to its end; train the run first"):
        reading.load_end(run, like, MADE_FROM, 7)
    assert {*content(run).items()} < {*before.items()}


def test_runs_and_studies_are_found_in_folders(tmp_path):
    study, single = (
        make_study(tmp_path / "all" / "b"),
        make_run(tmp_path / "all" / "a" / "x", CONFIG),
    )
    broken = make_run(tmp_path / "all" / "c", CONFIG)
    (broken / "config.json").write_text("{")
    (tmp_path / "all" / ".hidden").mkdir()
    make_run(tmp_path / "all" / ".hidden" / "run", CONFIG)
    (tmp_path / "all" / "link").symlink_to(study)
    (tmp_path / "all" / "config.json").write_text('{"of": "another program"}')
    assert reading.runs_and_studies([tmp_path / "all"]) == [single, study, broken]
    assert reading.runs_and_studies([study, single, tmp_path]) == [study, single, broken]
    inside = reading.runs_and_studies([study / "runs"])
    assert inside == sorted(study / "runs" / member.name for member in STUDY.members())
    for name, what in (("all/link/runs/sgd-seed0/checkpoints", "holds no"), ("no", "is not there")):
        with pytest.raises(RunError, match=f"{tmp_path / name} {what}"):
            reading.runs_and_studies([study, tmp_path / name])


def test_histories_are_named_by_what_differs(tmp_path):
    study, lines = make_study(tmp_path / "study"), []
    (study / "runs" / "notes").mkdir()
    (study / "runs" / ".DS_Store").touch()
    found = reading.histories([study], pytest.fail)
    assert list(found) == [f"{name}, seed {s}" for name in ("adam", "sgd") for s in (0, 1)]
    assert [len(history) for history in found["adam, seed 0"]] == [3]
    (study / "config.json").unlink()
    (study / "history.csv").touch()
    assert list(reading.histories([tmp_path], pytest.fail)) == list(found)
    twin = make_run(tmp_path / "twin", STUDY.members()[0])
    begun = tmp_path / "begun"
    claims.claim_run(begun, CONFIG)
    found = reading.histories([study, twin, begun], lines.append)
    assert list(found)[-1] == f"sgd, seed 0, {twin}" and len(found) == 5
    (line,) = lines
    assert line == f"{begun} has no intact checkpoint yet; train the run first; it is left out"
    with pytest.raises(RunError, match=r"begun has no intact checkpoint yet; train the run first$"):
        reading.histories([begun], pytest.fail)


def test_of_many_runs_those_of_one_configuration_stand_together(tmp_path):
    study = make_study(tmp_path / "study", replace(STUDY, seeds=5))
    found = reading.histories([study], pytest.fail)
    assert {label: len(histories) for label, histories in found.items()} == {"adam": 5, "sgd": 5}
    assert labels(replace(STUDY, optimizers=("sgd",)).members(), seeds=False) == ["sgd", "sgd"]


def test_labels_say_what_differs_and_no_more():
    sgd = replace(CONFIG, optimizer="sgd", sam="none", seed=0, settings=Settings())
    with_rate = [replace(sgd, settings=Settings(learning_rate=rate)) for rate in (None, 0.1)]
    assert labels([sgd]) == labels([sgd, sgd])[:1] == ["sgd, seed 0"]
    assert labels(with_rate) == ["learning rate default", "learning rate 0.1"]
    variants = [sgd, replace(sgd, sam="sam"), replace(sgd, sam="asam", seed=1).resolved()]
    assert labels(variants) == ["sgd, seed 0", "sgd + sam, seed 0", "sgd + asam, seed 1"]
    radii = [replace(variants[1], settings=Settings(rho=rho)) for rho in (None, 0.5)]
    assert labels(radii) == ["rho default", "rho 0.5"]
    assert labels([sgd, replace(sgd, dataset="mnist", model="mlp")]) == [
        "digits, small_mlp",
        "mnist, mlp",
    ]
