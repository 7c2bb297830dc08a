"""A folder knows content: whatever changed under the same names is refused and named."""

import re
import shutil
from dataclasses import replace

import jax
import pandas as pd
import pytest

from jaxsharp import runs, studies
from jaxsharp.measures import MEASURES, Record
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.runs import RunError, claims, directory, tables
from jaxsharp.studies import measuring, status, sweep
from jaxsharp.studies.grid import parse_vary
from jaxsharp.studies.origins import fingerprint
from tests.folders import damage, state_at
from tests.studies.contents import (
    CHANGES,
    CONFIG,
    DATA,
    SHIFT,
    bench_of,
    data_of,
    with_one_pixel,
)


def content(path):
    return {
        p.relative_to(path): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in path.rglob("*")
        if p.is_file()
    }


TOLD = []  # how far the study said that it was, while it was made


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("fingerprints") / "out"
    claims.claim(out, CONFIG.as_dict())
    studies.conduct(CONFIG, out, bench_of(), report=TOLD.append)
    return out


def refusal(study, call):
    """What is said of a change; nothing is written or trained."""
    before = content(study)
    with pytest.raises(RunError) as caught:
        call()
    assert content(study) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_under_the_same_names_is_refused_and_named(study, monkeypatch, change):
    make, fields = CHANGES[change]
    bench = make()
    monkeypatch.setattr(sweep, "epoch_program", None)  # nothing is compiled
    monkeypatch.setattr(measuring, "measuring_program", None)
    member = CONFIG.members()[0]
    path = study / "runs" / member.name
    for call in (
        lambda: studies.conduct(CONFIG, study, bench),
        lambda: sweep.train([member], [path], bench, save_every=1),
        lambda: measuring.measure([member], [path], bench, CONFIG.measures, CONFIG.options),
    ):
        said = refusal(study, call)
        assert re.search(r"checkpoint .*epoch_0001 was made from other data|another program", said)
        named = set(re.findall(r"(\w+(?: \w+)?) [0-9a-f]{8} -> [0-9a-f]{8}", said))
        assert named == fields and "--out" in said and "--fresh" in said


@pytest.mark.slow
def test_what_did_not_change_continues_and_is_not_repeated(study, monkeypatch):
    """Another object of the same functions, more seeds, another order of names, other batches."""
    monkeypatch.setattr(sweep, "epoch_program", None)
    monkeypatch.setattr(measuring, "measuring_program", None)
    before = (study / "runs.csv").read_bytes()
    copied = bench_of(data_of(images=DATA.train.images.copy()), shift=SHIFT.copy())
    studies.conduct(CONFIG, study, copied)
    assert (study / "runs.csv").read_bytes() == before
    first, second = CONFIG.members()
    bench = bench_of()
    assert fingerprint(first, bench) == fingerprint(second, bench)
    noisy = replace(first, settings=replace(first.settings, label_noise=0.5, epochs=9))
    assert fingerprint(noisy, bench) == fingerprint(first, bench)
    orders = [("rho=0.1,0.2", "learning_rate=0.5"), ("learning_rate=0.5", "rho=0.2,0.1")]
    grids = [replace(CONFIG, sam=("sam",), vary=parse_vary(o, CONFIG.settings)) for o in orders]
    found = [{m.name: fingerprint(m, bench) for m in grid.members()} for grid in grids]
    assert found[0] == found[1] and len(found[0]) == 4
    batch = replace(first, settings=replace(first.settings, batch_size=4))
    assert fingerprint(batch, bench).network == fingerprint(first, bench).network


@pytest.mark.slow
def test_an_optimizer_that_changed_is_refused_unless_what_changed_is_given(study, monkeypatch):
    other = lambda learning_rate=0.3, **rest: sgd(learning_rate, **rest)  # noqa: E731
    sgd = OPTIMIZERS["sgd"]
    member = CONFIG.members()[0]
    given = replace(member, settings=replace(member.settings, learning_rate=0.1))
    before = [fingerprint(each, bench_of()) for each in (member, given)]
    monkeypatch.setitem(OPTIMIZERS, "sgd", other)
    after = [fingerprint(each, bench_of()) for each in (member, given)]
    assert before[0].network == after[0].network
    assert before[0].optimizer != after[0].optimizer and before[1] == after[1]
    said = refusal(study, lambda: studies.conduct(CONFIG, study, bench_of()))
    assert re.search(r"another program under the same name \(optimizer \w{8} -> \w{8}\)", said)


def test_more_runs_beside_those_of_other_data_are_refused_before_any_is_trained(study, tmp_path):
    out = shutil.copytree(study, tmp_path / "out")
    shutil.rmtree(out / "runs" / CONFIG.members()[0].name)
    grown = replace(CONFIG, optimizers=("adam", "sgd"), seeds=3)
    said = refusal(out, lambda: studies.conduct(grown, out, bench_of(with_one_pixel())))
    assert "other data under the same name (train images " in said


@pytest.mark.slow
def test_another_version_of_jax_is_told_and_other_data_still_refused(study, tmp_path, monkeypatch):
    out = shutil.copytree(study, tmp_path / "out")
    said = []
    monkeypatch.setattr("jaxsharp.runs.fingerprint.warn_once", said.append)
    monkeypatch.setattr(jax, "__version__", "99.0")
    studies.conduct(CONFIG, out, bench_of())
    assert said == []  # nothing differs but the version
    path = out / "runs" / CONFIG.members()[0].name
    directory.check_origin(path, fingerprint(CONFIG.members()[0], bench_of(scale=254.0)))
    (line,) = said
    assert re.fullmatch(
        r"network: traced by jax \S+ on \w+, now by jax 99.0 on \w+; whether .* cannot be told",
        line,
    )
    with pytest.raises(RunError, match=r"other data and another program .*train images.* network "):
        bench = bench_of(with_one_pixel(), scale=254.0)
        directory.check_origin(path, fingerprint(CONFIG.members()[0], bench))


def test_measurements_whose_checkpoint_is_lost_are_not_taken_over(study, tmp_path):
    out, lines = shutil.copytree(study, tmp_path / "out"), []
    path = out / "runs" / CONFIG.members()[0].name
    shutil.rmtree(path / "checkpoints")
    made_from = fingerprint(CONFIG.members()[0], bench_of(with_one_pixel()))
    assert directory.load(path, state_at(1), made_from, lines.append) is None
    assert len(runs.read_sharpness(path)) == 0 and (path / "damaged-sharpness.csv").is_file()
    assert lines == [
        f"{path} has measurements and no checkpoint; they are now in damaged-sharpness.csv"
    ]


@pytest.mark.slow
def test_a_finished_study_says_so_at_once_and_whenever_it_is_asked_for_again(study):
    def counts(progress):
        return progress.trained, progress.measured, progress.steps, progress.total

    first, last = TOLD[0], TOLD[-1]
    assert counts(first) == (0, 0, 0, 4) and counts(last) == (2, 2, 4, 4)
    again = []
    studies.conduct(CONFIG, study, bench_of(), report=again.append)
    assert again[0].trained == 2 and counts(again[-1]) == (2, 2, 4, 4)
    stale = replace(status.derive(study), measured=1, trained=0)
    status.write(study, stale)  # as a process leaves it that is killed
    assert "2 runs: 2 trained (0 converged, 0 diverged), 2 measured" in status.describe(study)


@pytest.mark.slow
def test_the_tables_of_a_study_have_its_own_measures_alone(study, tmp_path):
    out = shutil.copytree(study, tmp_path / "out")
    path = out / "runs" / CONFIG.members()[0].name
    for name in ("random_perturbation", "top_eigenvalue"):
        settings = MEASURES[name].settings(replace(CONFIG.options, eigenvalue_tol=0.5))
        at = measuring.Place(CONFIG.members()[0], path)
        found = Record(1.5, 0.5, True, 12, 16, 0, True)
        measuring.record(at, name, MEASURES[name], settings, found)
        assert tables.row(path)[name] == 1.5
    assert "2 measured" in status.describe(out)
    studies.conduct(CONFIG, out, bench_of())
    for name in ("runs.csv", "history.csv", "summary.csv", "correlations.csv"):
        assert (out / name).read_bytes() == (study / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"path\n../victim\n", b"\xff\xfe", None])
def test_times_that_are_damaged_are_set_aside_and_block_nothing(study, tmp_path, capsys, content):
    out = shutil.copytree(study, tmp_path / "out")
    times = out / "times.csv"
    if content is None:
        times.unlink()
        times.mkdir()
    else:
        times.write_bytes(content)
    capsys.readouterr()
    studies.conduct(CONFIG, out, bench_of())
    (line,) = capsys.readouterr().err.splitlines()
    assert str(times) in line and "it is now damaged-times.csv, and begun anew" in line
    assert (out / "damaged-times.csv").exists() and len(pd.read_csv(times)) == 1
    assert (out / "runs.csv").read_bytes() == (study / "runs.csv").read_bytes()


def test_sharpness_of_a_run_whose_end_is_damaged_changes_nothing(study, tmp_path):
    out = shutil.copytree(study, tmp_path / "out")
    member = CONFIG.members()[0]
    path = out / "runs" / member.name
    damage(path / "checkpoints" / "epoch_0001")
    said = refusal(
        out,
        lambda: measuring.measure(
            [member], [path], bench_of(), ["minimum_sharpness"], CONFIG.options
        ),
    )
    assert "epoch_0001 cannot be read: " in said and "no other is whole" in said
    assert "give the command that trained it again" in said
