"""Records of measures in directories of runs: flags reach the tables; older rows do not stay."""

import pandas as pd
import pytest

from jaxsharp import analysis, runs
from jaxsharp.measures import MEASURES, Options
from jaxsharp.runs import RunConfig, RunError, Settings, claims, files, measurements, tables
from jaxsharp.studies import measuring, merge, status, sweep
from jaxsharp.studies.study import write_tables
from jaxsharp.studies.workbench import workbench
from tests.folders import STUDY, make_study
from tests.tinynets import mlp, tiny_dataset

NAME = "top_eigenvalue"
OLD = ("measure", "settings", "value", "error")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is trained, and what it takes to measure it."""
    network = mlp()
    bench = workbench(tiny_dataset(num=40), "small_mlp")._replace(network=network, trained=network)
    settings = Settings(epochs=1, batch_size=5, loss_below=None)
    config = RunConfig("tiny", "small_mlp", "sgd", "none", 0, settings)
    path = tmp_path_factory.mktemp("run") / config.name
    claims.claim_run(path, config)
    sweep.train([config], [path], bench, save_every=1)
    return [config], [path], bench


def write_old(path, settings):
    """A measurement as an older version wrote it, with a right checksum."""
    files.write_rows(path / "sharpness.csv", OLD, [[NAME, settings, 99.0, 0.5]])


@pytest.mark.slow
def test_an_eigenvalue_that_stops_at_the_limit_is_marked_in_the_row_of_its_run(
    trained, monkeypatch
):
    options = Options(eigenvalue_tol=1e-4)
    monkeypatch.setattr("jaxsharp.measures.spectrum.eigenvalues.MAX_PRODUCTS", 3)
    measuring.measure(*trained, [NAME], options)
    row = tables.row(trained[1][0])
    assert row[f"{NAME}_finished"] is False and row[f"{NAME}_cost"] <= 3
    assert row[f"{NAME}_error"] > 1e-4 * row[NAME] > 0
    assert row[f"{NAME}_error_kind"] == "residual"
    assert row[f"{NAME}_cost_unit"] == "Hessian products"


@pytest.mark.slow
def test_starts_are_part_of_the_settings_and_of_the_cost(trained):
    costs = []
    for starts in (1, 2):
        options = Options(eigenvalue_tol=1e-3, eigenvalue_starts=starts)
        measuring.measure(*trained, [NAME], options)
        row = list(runs.read_sharpness(trained[1][0]).itertuples())[-1]
        wanted = f"eigenvalue_tol=0.001 eigenvalue_starts={starts} eigenvalue_sample=0.0"
        assert row.settings == wanted
        assert row.finished == 1
        costs.append(row.cost)
    assert costs[1] > costs[0]


@pytest.mark.slow
def test_what_an_older_version_measured_is_measured_again_with_a_line(trained, capsys):
    (path,) = trained[1]
    options = Options(eigenvalue_tol=1e-3)
    write_old(path, MEASURES[NAME].settings(options))
    measuring.measure(*trained, [NAME], options)
    warned = capsys.readouterr().err.splitlines()
    assert warned and all(str(path) in line and "of an older version" in line for line in warned)
    (row,) = runs.read_sharpness(path, pytest.fail).itertuples()
    assert row.value != 99.0 and row.finished == 1


def test_a_folder_with_older_rows_is_not_measured_and_not_merged(tmp_path):
    """Neither a crash nor a table with what is not known of the values."""
    out = make_study(tmp_path / "study")
    member = STUDY.members()[0]
    write_old(out / "runs" / member.name, MEASURES[NAME].settings(STUDY.options))
    said = status.describe(out)
    assert "4 runs: 4 trained (0 converged, 0 diverged), 3 measured" in said
    (line,) = [line for line in said.splitlines() if line.startswith("damaged: ")]
    assert "of an older version" in line and "measured again" in line
    with pytest.raises(RunError, match=rf"run {member.name} is not measured \({NAME}\)"):
        merge.merge([out], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_study_of_an_older_version_is_refused_in_one_line(tmp_path):
    """Its configuration knows of no second start."""
    old = STUDY.as_dict()
    del old["options"]["eigenvalue_starts"]
    claims.write_config(tmp_path, old)
    with pytest.raises(RunError, match=r"another configuration \(eigenvalue_starts None -> 1\)"):
        claims.is_claimed(tmp_path, STUDY.as_dict())
    assert status.read_study(tmp_path) == STUDY


def test_the_tables_of_a_study_have_the_flags(tmp_path):
    out = make_study(tmp_path / "study")
    run = out / "runs" / STUDY.members()[0].name
    table = runs.read_sharpness(run)
    measurements.write_sharpness(run, table.assign(finished=0))
    write_tables(out, STUDY, set(STUDY.members()))
    found = analysis.usable(pd.read_csv(out / "runs.csv").assign(converged=True), [NAME])
    assert found.counts["unfinished"] == 1 and len(found.kept) == 3


@pytest.mark.slow
def test_measures_that_share_their_products_compute_them_once(trained, monkeypatch):
    fetched, fetch = [], measuring.fetch
    monkeypatch.setattr(measuring, "fetch", lambda found: fetched.append(found) or fetch(found))
    names, options = ["eigenvalue_ratio", "top_eigenvalues_sum"], Options(eigenvalue_count=2)
    measuring.measure(*trained, names, options)
    row = tables.row(trained[1][0])
    ratio, total = (row[name] for name in names)
    assert len(fetched) == 1 and row[f"{names[0]}_cost"] == row[f"{names[1]}_cost"] > 2
    assert 0 < total / (1 + ratio) < ratio * total / (1 + ratio) < total
