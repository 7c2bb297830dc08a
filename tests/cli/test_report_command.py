"""`jaxsharp report` as a user gives it: one page, or one line that says what is wrong."""

import re
from dataclasses import replace

import pytest

from jaxsharp import cli
from jaxsharp.cli import commands
from jaxsharp.runs import files
from jaxsharp.studies import study
from jaxsharp.training import members
from tests.folders import STUDY, make_study
from tests.pages import content_of, title_of
from tests.test_layout import PACKAGE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two studies, one of which has no tables, and a folder with nothing in it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "empty").mkdir()
    config = replace(STUDY, seeds=1)
    for name in ("whole", "begun"):
        make_study(folder / "studies" / name, config)
    study.write_tables(folder / "studies" / "whole", config, set(config.members()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "use_compilation_cache", lambda: None)
        patch.setattr(members, "cores_as_devices", lambda: None)
        patch.setattr(commands.signals, "handle", lambda: None)
        patch.chdir(folder)
        yield folder


def seen(place):
    """All that is there, but for the locks of folders."""
    found = [p for p in place.rglob("*") if not p.name.startswith(".lock")]
    return {p: (p.read_bytes() if p.is_file() else b"", p.lstat().st_mtime_ns) for p in found}


def test_a_page_is_written_and_nothing_else_is_changed(place, capsys):
    before = seen(place / "studies")
    cli.main(["report", "studies"])
    out, err = capsys.readouterr()
    assert out == "report.html\n" and "begun has no table of runs yet" in err
    assert "it is left out" in err and err.count("\n") == 1
    page = (place / "report.html").read_text()
    assert title_of(page) == "whole" and len(content_of(page)["runs"]["seed"]) == 2
    cli.main(["report", "studies/whole", "--out", "again.html"])
    assert (place / "again.html").read_text() == page
    assert seen(place / "studies") == before
    for name in ("report.html", "again.html"):
        (place / name).unlink()


@pytest.mark.slow
def test_the_command_of_the_guide_writes_a_page_of_the_default_study(place, tmp_path, monkeypatch):
    guide = (PACKAGE / "analysis" / "README.md").read_text()
    (line,) = re.findall(r"^jaxsharp (report .*?) +#", guide, re.M)
    monkeypatch.chdir(PACKAGE.parent)
    *arguments, name = line.split()
    cli.main([*arguments, str(tmp_path / name)])
    page = (tmp_path / name).read_text()
    found = content_of(page)
    (study,) = found["studies"]
    said = "none of 3 measures has a Kendall's tau with the gap whose 95 % interval excludes zero"
    assert said in study["headline"] and "+0.31 [-0.26, +0.78] over 24 of 36" in study["headline"]
    assert len(found["curves"]["runs"]) == 36 and len(page.encode()) < 300_000


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "report needs one or more studies, runs, or folders of them"),
        (["nowhere"], "nowhere is not there; name runs, studies, or a folder of them"),
        (["empty"], "empty holds no run and no study; name runs, studies, or a folder of them"),
        (["studies", "empty"], "empty holds no run and no study"),
        (["studies/begun"], "studies/begun has no table of runs yet; its first group is not"),
        (["studies", "--out", "page.pdf"], "out is 'page.pdf'; its suffix must be .html"),
        (["studies", "--out", "no/such/page.html"], "No such file or directory"),
        (["studies", "--out", "studies/whole/x.html"], "is inside of the study"),
        (["studies/whole/runs.csv"], "holds no run and no study|is not there"),
    ],
)
def test_what_is_wrong_is_one_line(place, capsys, arguments, line):
    before = seen(place)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", *arguments])
    out, err = capsys.readouterr()
    *warnings, last = err.splitlines()
    assert stopped.value.code == 2 and out == "" and len(warnings) < 2
    assert last.startswith("jaxsharp: error: ") and any(part in last for part in line.split("|"))
    assert seen(place) == before


def test_a_full_disk_leaves_the_page_that_was_there(place, monkeypatch, capsys):
    (place / "kept.html").write_text("whole")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SystemExit):
        cli.main(["report", "studies/whole", "--out", "kept.html"])
    assert "kept.html" in capsys.readouterr().err
    assert (place / "kept.html").read_text() == "whole"
    assert not list(place.glob(".tmp-*"))
    (place / "kept.html").unlink()
