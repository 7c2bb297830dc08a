"""What a study writes at its end, from runs that were made without training, and its progress."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jaxsharp.analysis.page.content import content
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.runs import Settings
from jaxsharp.studies import measuring, report, study, sweep
from jaxsharp.studies.writing import tables
from tests.folders import MADE_FROM, STUDY, make_study
from tests.pages import content_of

VARIED = replace(
    STUDY,
    settings=Settings(epochs=3, loss_below=None),
    vary={"learning_rate": (0.1, 0.01), "batch_size": (8, 16)},
)


@pytest.fixture(scope="module")
def without_a_rule(tmp_path_factory):
    """A varied study whose runs all ended after three epochs."""
    out = make_study(tmp_path_factory.mktemp("study") / "out", VARIED)
    study.write_tables(out, VARIED, set(VARIED.members()))
    return out, study.summarize(VARIED, out)


@pytest.mark.slow
def test_without_a_rule_tables_and_counts_say_the_same(without_a_rule):
    out, result = without_a_rule
    runs, summary = (pd.read_csv(out / f"{name}.csv") for name in ("runs", "summary"))
    assert runs["converged"].isna().all() and (runs["epochs"] == 3).all()
    assert summary["converged"].isna().all() and (summary["runs"] == 2).all()
    found = result.correlations["top_eigenvalue"]
    assert found.num_runs == len(runs) == 16 and not any(found.excluded.values())
    (row,) = pd.read_csv(out / "correlations.csv").to_dict("records")
    assert row["runs"] == 16 and row["excluded unconverged"] == 0


@pytest.mark.slow
def test_the_columns_of_the_summary_say_which_mean_they_are(without_a_rule):
    out, _ = without_a_rule
    runs, summary = (pd.read_csv(out / f"{name}.csv") for name in ("runs", "summary"))
    names = list(summary)
    assert names[:7] == [*VARIED.axes(), "runs", "converged", "diverged"]
    assert names[7:10] == ["train_accuracy_mean", "train_accuracy_low", "train_accuracy_high"]
    assert names[-4] == "top_eigenvalue_geomean"
    gap = runs["train_accuracy"] - runs["test_accuracy"]
    np.testing.assert_allclose(runs["gap"], gap, rtol=1e-12)
    np.testing.assert_allclose(summary["gap_mean"], gap.mean(), rtol=1e-12)


@pytest.mark.slow
def test_there_is_a_figure_for_each_setting_that_is_varied(without_a_rule, tmp_path):
    out, _ = without_a_rule
    found = sorted(path.name for path in out.glob("*.png"))
    assert found == sorted(
        ["sharpness.png", "training.png", "vary_batch_size.png", "vary_learning_rate.png"]
    )
    plain = make_study(tmp_path / "plain")
    study.write_tables(plain, STUDY, set(STUDY.members()))
    for _ in range(2):
        study.summarize(STUDY, plain, ("svg", "pdf"))
        found = {p.name: p.read_bytes() for p in plain.iterdir() if p.suffix in (".svg", ".pdf")}
        assert len(found) == 4 and not list(plain.glob("*.png"))
    study.summarize(STUDY, plain, ("svg",))  # the others are not of an earlier time
    assert {name: (plain / name).read_bytes() for name in found} == found


@pytest.mark.slow
def test_a_study_ends_with_its_page(without_a_rule, capsys):
    """Of the same statistics; what is not the study's own does not stop it."""
    out, result = without_a_rule
    found = content_of((out / "report.html").read_text())
    assert len(found["runs"]["gap"]) == 16 and found["curves"]["runs"][15][0] == [1, 2, 3]
    assert found == {"title": "out", **content(report.read([out]))}
    (out / "evaluation.csv").write_text("")
    (out / "report.html").unlink()
    tables.write_page(VARIED, out, result)
    err = capsys.readouterr().err
    assert f"{out} has no new report.html: {out / 'evaluation.csv'} is not a table" in err
    assert not (out / "report.html").exists()
    again = study.summarize(VARIED, out)
    pd.testing.assert_frame_equal(again.summary, result.summary)
    assert content_of((out / "report.html").read_text()) == found


def test_progress_says_which_group_of_how_many(tmp_path, monkeypatch):
    out = make_study(tmp_path / "study")
    done = (sweep, "train"), (study, "train_again"), (measuring, "measure")
    for module, name in done:
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    told = []
    bench = SimpleNamespace(optimizers=OPTIMIZERS)
    work = study.Work(STUDY, out, bench, 50, sweep.ANYHOW, told.append)
    for group in STUDY.groups():
        work.do(group, MADE_FROM)
    said = list(dict.fromkeys(progress.group for progress in told))
    assert said == ["group 1 of 2, sgd", "group 2 of 2, adam"]
