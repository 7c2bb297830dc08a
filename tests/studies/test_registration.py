"""Hypotheses are in a study's config.json before its first run, and stay as they were."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jaxsharp import studies
from jaxsharp.networks import LOSSES
from jaxsharp.runs import RunError, claims
from jaxsharp.studies import status, study
from jaxsharp.studies.grid import registration
from jaxsharp.studies.grid.registration import check_targets, hypotheses_of
from jaxsharp.studies.merge import merge
from jaxsharp.studies.report import command_of, read
from tests.folders import STUDY, make_run, make_study
from tests.studies.test_more_epochs import MINE, NETWORK, norm

PLUS, MINUS = (hypotheses_of(f"top_eigenvalue:{sign}:gap", STUDY) for sign in "+-")
TABLES = ("runs.csv", "history.csv", "summary.csv", "correlations.csv")


def entry(out):
    return json.loads((out / "config.json").read_text()).get("preregistration")


def registered(out, config=STUDY, hypotheses=PLUS):
    """A study that registered hypotheses, and whose runs are finished."""
    with study.claimed(out, config, hypotheses=hypotheses):
        for member in config.shard_members():
            make_run(out / "runs" / member.name, member)
    return out


def refusal(out, config=STUDY, hypotheses=()):
    """The line with which a command is refused, which changes nothing."""
    before = (out / "config.json").read_bytes()
    with pytest.raises(RunError) as refused, study.claimed(out, config, hypotheses=hypotheses):
        pass
    assert (out / "config.json").read_bytes() == before and "\n" not in str(refused.value)
    return str(refused.value)


def tamper(out, change, checksum=True):
    """Change what a study registers, and sign the file anew, as its own hash forbids."""
    found = json.loads((out / "config.json").read_text())
    change(found["preregistration"])
    if checksum:
        del found["checksum"]
        claims.write_config(out, found)
    else:
        (out / "config.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top_eigenvalu:+:gap", "unknown measure of a hypothesis 'top_eigenvalu'; valid are top_e"),
        ("top_eigenvalue:+:los_gap", "valid are loss_gap, gap, test_loss, test_accuracy"),
        (
            "gradient_norm:+:gap",
            "hypotheses has gradient_norm:+:gap, and the study does not measure gradient_norm; "
            "add it to measures, or name one of top_eigenvalue",
        ),
    ],
)
def test_a_study_tests_its_measures_and_targets(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        hypotheses_of(text, STUDY)


def test_a_loss_without_accuracy_has_no_gap_of_it():
    of = lambda name: SimpleNamespace(loss=LOSSES[name])  # noqa: E731
    check_targets(PLUS, of("cross_entropy"))
    check_targets(hypotheses_of("top_eigenvalue:+:loss_gap", STUDY), of("squared_error"))
    said = "the loss squared_error has no accuracy; valid targets are loss_gap, test_loss"
    with pytest.raises(ValueError, match=said):
        check_targets(PLUS, of("squared_error"))


def test_hypotheses_grid_and_time_are_there_before_the_first_run_with_their_hash(tmp_path):
    out = tmp_path / "out"
    with study.claimed(out, STUDY, hypotheses=PLUS):
        assert not (out / "runs").exists()
        found = entry(out)
    assert found["hypotheses"] == [{"measure": "top_eigenvalue", "sign": "+", "target": "gap"}]
    assert found["grid"] == json.loads(json.dumps(STUDY.as_dict()))
    # As the guide says that anyone can.
    text = json.dumps({"grid": found["grid"], "hypotheses": found["hypotheses"]}, sort_keys=True)
    assert found["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    age = datetime.now(UTC) - datetime.fromisoformat(found["registered"])
    assert timedelta(seconds=-1) <= age < timedelta(minutes=5)
    assert claims.read_config(out) == json.loads(json.dumps(STUDY.as_dict()))
    plain = tmp_path / "plain"
    with study.claimed(plain, STUDY):
        pass
    assert entry(plain) is None
    assert set(json.loads((plain / "config.json").read_text())) == {*STUDY.as_dict(), "checksum"}


def test_after_the_first_run_hypotheses_neither_change_nor_come(tmp_path):
    out, plain = registered(tmp_path / "out"), make_study(tmp_path / "plain")
    kept = entry(out)
    for again in (PLUS, ()):
        with study.claimed(out, STUDY, hypotheses=again):
            assert entry(out) == kept
    said = refusal(out, hypotheses=MINUS)
    assert f"registers top_eigenvalue:+:gap on {kept['registered']}, SHA-256" in said
    assert "top_eigenvalue:-:gap would come after the first run, and be exploratory" in said
    more = tuple(sorted((*PLUS, *hypotheses_of("top_eigenvalue:+:loss_gap", STUDY))))
    assert "would come after the first run" in refusal(out, hypotheses=more)
    assert "has runs and registers no hypotheses" in refusal(plain, hypotheses=PLUS)
    shutil.rmtree(plain / "runs")
    (plain / "runs.csv").write_text("seed\n0\n")
    assert "has runs and registers no hypotheses" in refusal(plain, hypotheses=PLUS)


def test_before_the_first_run_they_are_replaced_with_a_line(tmp_path, capsys):
    for hypotheses in (PLUS, MINUS):
        with study.claimed(tmp_path, STUDY, hypotheses=hypotheses):
            assert entry(tmp_path)["hypotheses"][0]["sign"] == hypotheses[0].sign
    assert "top_eigenvalue:+:gap are replaced; no run was begun" in capsys.readouterr().err
    registered(tmp_path, hypotheses=MINUS)
    with study.claimed(tmp_path, STUDY, fresh=True, hypotheses=PLUS):
        assert entry(tmp_path)["hypotheses"][0]["sign"] == "+"


def test_a_study_that_grows_keeps_what_it_registered_and_says_what_came_later(tmp_path):
    out = registered(tmp_path / "out")
    kept = entry(out)
    wanted = replace(STUDY, seeds=3, measures=("top_eigenvalue", "gradient_norm"))
    wanted = replace(wanted, settings=replace(STUDY.settings, epochs=5))
    with study.claimed(out, wanted):
        claims.write_config(out, wanted.as_dict(), registration.read(out).entry)
    found = registration.read(out)
    assert entry(out) == kept and found.grid == STUDY
    assert claims.read_config(out)["seeds"] == 3
    later = registration.later(found, status.read_study(out))
    assert later == (
        "2 runs came later (sgd-seed2, adam-seed2); runs were trained on from 3 to 5 epochs; "
        "measured later: gradient_norm"
    )
    lines = status.describe(out).splitlines()
    assert lines[2] == f"registered: {found.text}" and lines[3] == f"since then: {later}"
    assert registration.later(found, STUDY) == ""
    assert "registered" not in status.describe(make_study(tmp_path / "plain"))


def test_rows_of_the_registered_grid():
    grid = replace(STUDY, sam=("none", "sam"), vary={"rho": (0.1, 0.2), "batch_size": (32,)})
    row = {"dataset": "digits", "model": "small_mlp", "optimizer": "sgd", "sam": "sam", "seed": 1}
    row |= {"rho": 0.1, "batch_size": 32, "epochs": 3}
    other = [
        *({}, {"sam": "none", "rho": float("nan")}, {"epochs": 2}),
        *({"seed": 2}, {"epochs": 4}, {"rho": 0.3}, {"rho": float("nan")}, {"batch_size": 64}),
        *({"optimizer": "adagrad"}, {"sam": "asam"}, {"dataset": "mnist"}, {"model": "lenet"}),
    ]
    found = registration.of_grid(pd.DataFrame([row | each for each in other]), grid)
    assert list(np.flatnonzero(found)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e["hypotheses"][0].update(sign="-"), "and not "),
        (lambda e: e["grid"].update(seeds=1), "they are not those that were registered"),
        (lambda e: e.update(sha256="0" * 64), "and not 000000000000"),
        (lambda e: e.update(sha256=7), "the SHA-256 of its hypotheses and grid is"),
        (lambda e: e.pop("grid"), "it must have hypotheses, grid, registered, sha256"),
        (lambda e: e.update(registered="soon"), "soon"),
        (lambda e: e.update(registered="2026-01-01T00:00:00"), "it must be a time, UTC"),
    ],
)
def test_what_was_tampered_with_is_one_line_everywhere(tmp_path, change, said):
    out = registered(tmp_path / "out")
    tamper(out, change)
    before = (out / "config.json").read_bytes()
    for command in (
        lambda: status.describe(out),
        lambda: merge([out], tmp_path / "merged"),
        lambda: read([out]),
        lambda: study.claimed(out, STUDY).__enter__(),
    ):
        with pytest.raises(RunError, match="has a preregistration that does not hold") as refused:
            command()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert (out / "config.json").read_bytes() == before and not (tmp_path / "merged").exists()


def test_a_damaged_file_keeps_an_entry_whose_own_hash_fits(tmp_path, capsys):
    out = registered(tmp_path / "out")
    kept, file = entry(out), out / "config.json"
    file.write_text(re.sub('"checksum": "....', '"checksum": "0000', file.read_text()))
    with study.claimed(out, STUDY):
        assert entry(out) == kept
    assert "is written anew" in capsys.readouterr().err
    tamper(out, lambda e: e["hypotheses"][0].update(sign="-"), checksum=False)
    assert "they are not those that were registered" in refusal(out)
    file.write_text(file.read_text()[:-30])
    with study.claimed(out, STUDY):
        assert entry(out) is None
    assert "what it registers is lost, and all is exploratory" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_are_merged_that_register_the_same(tmp_path, monkeypatch):
    times = iter(["2026-01-02", "2026-01-01", "2026-01-03"])
    clock = SimpleNamespace(
        now=lambda zone: datetime.fromisoformat(next(times)).replace(tzinfo=zone),
        fromisoformat=datetime.fromisoformat,
    )
    monkeypatch.setattr(registration, "datetime", clock)
    shard = lambda i: replace(STUDY, shard=f"{i}/2")  # noqa: E731
    one, two = (registered(tmp_path / f"part{i}", shard(i)) for i in (1, 2))
    assert entry(one)["sha256"] == entry(two)["sha256"] and entry(one)["grid"]["shard"] is None
    for _ in range(2):
        merge([one, two], tmp_path / "out")
        assert entry(tmp_path / "out") == entry(two)  # the earlier one
    other = registered(tmp_path / "other", shard(2), MINUS)
    plain = make_study(tmp_path / "plain", shard(2))
    for part, has in ((other, "top_eigenvalue:-:gap"), (plain, "no hypotheses")):
        with pytest.raises(RunError, match=re.escape(f"{part} registers {has}, but {one} top_ei")):
            merge([one, part], tmp_path / "new")
        assert not (tmp_path / "new").exists()
    with pytest.raises(RunError, match=f"{tmp_path / 'out'} registers"):
        merge([make_study(tmp_path / "plain1", shard(1)), plain], tmp_path / "out")


@pytest.mark.slow
def test_parts_that_were_trained_on_are_merged_into_what_they_registered(tmp_path):
    shard = lambda i: replace(STUDY, shard=f"{i}/2")  # noqa: E731
    parts = [registered(tmp_path / f"part{i}", shard(i)) for i in (1, 2)]
    merge(parts, tmp_path / "out")
    kept, first, more = entry(tmp_path / "out"), registration.read(parts[0]), []
    for i in (1, 2):
        config = replace(shard(i), settings=replace(STUDY.settings, epochs=5))
        more.append(make_study(tmp_path / f"more{i}", config, epoch=5))
        registration.keep(more[-1], first)
    merge(more, tmp_path / "out")
    assert entry(tmp_path / "out") == kept and kept["grid"]["settings"]["epochs"] == 3
    assert claims.read_config(tmp_path / "out")["settings"]["epochs"] == 5


def test_the_page_has_what_was_registered_and_the_command_too(tmp_path):
    out = registered(tmp_path / "out")
    study.write_tables(out, STUDY, set(STUDY.members()))
    ((found,), text) = read([out]), registration.read(out).text
    assert f"Registered: {text}." in found.remarks
    assert "--hypotheses top_eigenvalue:+:gap" in found.command
    assert "hypotheses" not in command_of(STUDY)


@pytest.mark.slow
def test_a_study_from_python_registers_trains_grows_and_keeps_its_tables(tmp_path):
    """The tables are those without hypotheses, byte for byte."""
    usual = {"optimizers": ["sgd"], "sam": ["none"], "measures": [norm], "batch_size": 11}
    usual |= {"vary": {"learning_rate": (0.05, 0.2)}, "epochs": 2, "loss_below": None}

    def run(name, **changes):
        studies.run(NETWORK, MINE, out=tmp_path / name, **usual | changes)
        return tmp_path / name

    with pytest.raises(ValueError, match="unknown measure of a hypothesis 'nrm'; valid are norm"):
        run("wrong", seeds=1, hypotheses=["nrm:+:gap"])
    assert not (tmp_path / "wrong").exists()
    stated = run("stated", seeds=1, hypotheses=["norm:+:gap"])
    kept = entry(stated)
    assert kept["hypotheses"] == [{"measure": "norm", "sign": "+", "target": "gap"}]
    with pytest.raises(RunError, match="would come after the first run"):
        run("stated", seeds=1, hypotheses=["norm:-:gap"])
    run("stated", seeds=2)
    assert entry(stated) == kept and kept["grid"]["seeds"] == 1
    plain = run("plain", seeds=2)
    for name in TABLES:
        assert (stated / name).read_bytes() == (plain / name).read_bytes()
