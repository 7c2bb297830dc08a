"""What `jaxsharp submit` refuses, in one line and before anything is written."""

import os
import re
from pathlib import Path

import pytest

from jaxsharp import cli
from jaxsharp.cli.parsing import bind
from jaxsharp.cli.study.asked import asked
from jaxsharp.cli.study.command import run_study
from jaxsharp.runs import claims
from tests.cli.submitting import STUDY, in_one_process, refused, submitted


@pytest.fixture(autouse=True)
def one_process(monkeypatch, tmp_path):
    in_one_process(monkeypatch, tmp_path)


WRONG = {
    "shards is 9 of 4 runs": ["--shards", "9"],
    "shards is 0": ["--shards", "0"],
    "time is '2 hours'; it must be as 90": ["--time", "2 hours"],
    "partition is 'a b'": ["--partition", "a b"],
    "stand without dashes": ["--sbatch", "GRES=1"],
    "which jaxsharp submit sets itself": ["--sbatch", "array=1-9"],
    "grace is 0": ["--grace", "0"],
    "setup has ''": ["--setup", ""],
    "command is empty": ["--command", ""],
    "No closing quotation": ["--command", "srun 'x"],
    "are Slurm's; local has none": ["--local", "--time", "9"],
    "processes is 2 without local": ["--processes", "2"],
    "processes is 0": ["--local", "--processes", "0"],
    "--optimizers is an option of jaxsharp study; those stand after --": ["--optimizers", "sgd"],
    "--train_size is an option of jaxsharp study; those stand after --": ["--train_size=100"],
    "the closest is --optimizers of jaxsharp study, after --": ["--optimizer", "sgd"],
    "a path that sbatch does not read": ["--out", "a b"],
}
WRONG_STUDIES = {
    "unknown optimizer 'sgdd'": ["--optimizers", "sgdd"],
    "--shard stands after --": ["--shard", "1/2"],
    "--out stands after --": ["--out", "x"],
    "--fresh stands after --": ["--fresh"],
    "unknown option --seed": ["--seed", "1"],
    "--partition is an option of jaxsharp submit; those stand before --": ["--partition", "gpu"],
    "the closest is --grace of jaxsharp submit, before --": ["--grce", "60"],
    "unknown figure format 'jpg'": ["--figures", "jpg"],
    "epochs is 0": ["--epochs", "0"],
    "images of shape (8, 8, 1) are too small for lenet": ["--model", "lenet"],
    "batch_size is 101; it must be from 1 to 100": [*STUDY, "--batch-size", "101"],
    "holdout is 5000": ["--holdout", "5000"],
    "mnist is in none of": ["--dataset", "mnist", "--data-dir", "."],
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_options_are_one_line_and_nothing_is_written(capsys, said):
    assert said in refused(capsys, *WRONG[said])
    assert not os.listdir()


@pytest.mark.parametrize("said", WRONG_STUDIES)
def test_wrong_studies_are_one_line_and_nothing_is_written(capsys, said):
    assert said in refused(capsys, study=WRONG_STUDIES[said])
    assert not os.listdir()


def test_a_folder_of_something_else_is_left_alone(capsys):
    Path("grid").mkdir()
    Path("grid/thesis.tex").touch()
    assert "holds files but no config.json" in refused(capsys)
    assert os.listdir() == ["grid"]


def claimed_by(folder, *options):
    """A folder of a shard, or of the whole study, that nobody has begun."""
    given = bind(run_study, "jaxsharp study", [*STUDY, *options]).keywords
    claims.claim(Path(folder), asked(**given).configs[0].as_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "shard"), [("grid", ()), ("grid-parts/2of3", ("--shard", "2/3"))]
)
def test_what_cannot_grow_is_refused_before_a_job_is_made(capsys, folder, shard):
    claimed_by(folder, "--epochs", "1", *shard)
    submitted("--dry-run")
    submitted("--dry-run", study=[*STUDY, "--epochs", "1"])
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    for options, said in {
        ("--seeds", "5"): "(seeds 4 -> 5, epochs 1 -> 2)",
        ("--batch-size", "9"): "(epochs 1 -> 2, batch_size 25 -> 9)",
        ("--schedule", "step"): "(epochs 1 -> 2, schedule 'constant' -> 'step')",
    }.items():
        line = refused(capsys, study=[*STUDY, *options])
        assert f"{folder} holds another configuration {said}; choose another directory" in line
        assert "--fresh" not in line
    Path(folder, "config.json").unlink()
    claimed_by(folder, "--epochs", "3", *shard)
    assert "(epochs 3 -> 2): epochs can be added and not taken back; choose" in refused(capsys)
    Path(folder, "config.json").unlink()
    claimed_by(folder, "--epochs", "1", "--schedule", "step", *shard)
    line = refused(capsys, study=[*STUDY, "--schedule", "step"])
    assert "(epochs 1 -> 2): schedule step depends on the number of epochs" in line
    assert sorted(Path().rglob("*")) == before
    Path(folder, "config.json").write_text("{")
    if shard:  # which its job mends
        submitted("--dry-run")


@pytest.mark.slow
def test_several_networks_are_shards_of_each(capsys):
    """As one command trains them; the default folder is that of the study, beside its parts."""
    study = [*STUDY, "--model", "small_mlp,mlp_1"]
    cli.main(["submit", "--shards", "4", "--dry-run", "--local", "--", *study])
    *train, merge = capsys.readouterr().out.splitlines()
    folders = [re.search(r"--shard \d/4 --out (\S+)/\dof4$", line)[1] for line in train]
    (whole,) = {folder.removesuffix("-parts") for folder in folders}
    assert len(train) == 4 and merge.endswith(f"--out {whole}")
    assert Path(whole).parent == Path("runs").absolute() and "small_mlp" in Path(whole).name
    cli.main(["submit", "--shards", "4", "--dry-run", "--out", "grid", "--", *study])
    assert "#SBATCH --array=1-4" in capsys.readouterr().out and not os.listdir()
