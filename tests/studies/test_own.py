"""Studies of the user's own network, data, optimizer, loss and measure."""

import numpy as np
import pytest

from jaxsharp import data, networks, studies
from jaxsharp.runs import RunError
from tests.interrupting import until
from tests.studies.ownstudies import CLASSES, INPUTS, MINE, NETWORK, SMALL, TABLES, Net, root_norm


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "whole"
    return out, studies.run(NETWORK, MINE, out=out, name="net", **SMALL)


@pytest.mark.slow
def test_every_run_is_trained_and_measured(whole):
    _, result = whole
    table = result.runs
    assert len(table) == 2 * 2 * 2 * 2 and set(table["optimizer"]) == {"sgd", "lion"}
    assert set(table["model"]) == {"net"} and set(table["dataset"]) == {"mine"}
    assert (table["epochs"] == 4).all()
    for name in ("random_perturbation", "top_eigenvalue", "root_norm"):
        assert table[name].nunique() == len(table)
    np.testing.assert_allclose(table["root_norm_error"], table["root_norm"] / 2)


@pytest.mark.slow
def test_interrupted_anywhere_it_ends_with_the_same_tables(whole, tmp_path):
    out, _ = whole
    stops = iter([3, 5, 9])

    for left in stops:
        with pytest.raises(KeyboardInterrupt):
            studies.run(NETWORK, MINE, out=tmp_path, name="net", report=until(left), **SMALL)
    studies.run(NETWORK, MINE, out=tmp_path, name="net", **SMALL)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


AVERAGED = {
    "optimizers": ["sgd"],
    "sam": ["none", "sam"],
    "seeds": 1,
    "vary": {"average": ("swa", "none", "ema")},
    "average_after": 1,
    "average_decay": 0.5,
    "measures": ["random_perturbation", root_norm],
    "num_perturbations": 4,
    "epochs": 4,
    "batch_size": 10,
    "loss_below": None,
}


@pytest.mark.slow
def test_averaged_networks_are_runs_of_their_own_with_the_same_bits_at_interruptions(tmp_path):
    whole = studies.run(NETWORK, MINE, out=tmp_path / "a", **AVERAGED).runs
    assert list(whole["average"]) == ["ema", "none", "swa"] * 2
    assert whole["root_norm"].nunique() == whole["random_perturbation"].nunique() == 6
    alone = {**AVERAGED, "vary": {}, "average": "ema", "sam": ["none"], "epochs": 2}
    assert list(studies.run(NETWORK, MINE, out=tmp_path / "c", **alone).runs["average"]) == ["ema"]
    names = {path.name for path in (tmp_path / "a" / "runs").iterdir()}
    assert {"sgd-bs10-seed0", "sgd-bs10-ema-seed0", "sgd-sam-bs10-swa-seed0"} < names

    for left in (4, 5, 9, 12):
        with pytest.raises(KeyboardInterrupt):
            studies.run(NETWORK, MINE, out=tmp_path / "b", report=until(left), **AVERAGED)
    studies.run(NETWORK, MINE, out=tmp_path / "b", **AVERAGED)
    for name in TABLES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
def test_another_network_or_other_data_under_the_same_name_is_refused(whole):
    out, _ = whole
    wider = networks.from_nnx(lambda rngs: Net(rngs, outputs=3))
    with pytest.raises(RunError, match="network"):
        studies.run(wider, MINE, out=out, name="net", **SMALL)
    moved = data.from_arrays((INPUTS[:40] + 1, CLASSES[:40]), MINE.test, name="mine")
    with pytest.raises(RunError, match="train images"):
        studies.run(NETWORK, moved, out=out, name="net", **SMALL)


@pytest.mark.slow
def test_a_finished_study_grows_in_place_and_repeats_nothing(tmp_path):
    first = {"optimizers": ["sgd"], "seeds": 1, "vary": {"learning_rate": (0.05,)}}
    more = {"optimizers": ["sgd", "adam"], "seeds": 2, "vary": {"learning_rate": (0.01, 0.05)}}
    common = {"sam": ["none"], "epochs": 2, "batch_size": 10, "loss_below": None}
    measured = [[root_norm], [root_norm, "top_eigenvalue"]]
    studies.run(NETWORK, MINE, out=tmp_path / "a", **first, **common, measures=measured[0])
    (run,) = (tmp_path / "a" / "runs").iterdir()
    before = (run / "checkpoints" / "epoch_0002" / "SHA256SUMS").stat().st_mtime_ns
    studies.run(NETWORK, MINE, out=tmp_path / "a", **more, **common, measures=measured[1])
    assert (run / "checkpoints" / "epoch_0002" / "SHA256SUMS").stat().st_mtime_ns == before
    studies.run(NETWORK, MINE, out=tmp_path / "b", **more, **common, measures=measured[1])
    for name in (*TABLES, "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(RunError, match="another configuration"):
        studies.run(NETWORK, MINE, out=tmp_path / "a", **first, **common, measures=measured[0])
    moved = data.from_arrays((INPUTS[:40] + 1, CLASSES[:40]), MINE.test, name="mine")
    config = (tmp_path / "a" / "config.json").read_bytes()
    with pytest.raises(RunError, match="train images"):
        larger = {**more, "seeds": 3}
        studies.run(NETWORK, moved, out=tmp_path / "a", **larger, **common, measures=measured[1])
    assert (tmp_path / "a" / "config.json").read_bytes() == config
