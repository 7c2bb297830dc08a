"""Studies with a loss over whole batches: training, evaluation, measures, identity, refusals."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxsharp import cli, networks, runs, studies
from jaxsharp.cli import commands
from jaxsharp.core import Budget
from jaxsharp.runs import RunError, claims
from jaxsharp.studies import sweep
from jaxsharp.studies.workbench import workbench
from jaxsharp.training import members
from tests.contrastive import (
    LOSS,
    NETWORK,
    PAIRS,
    SIZE,
    VIEWS,
    apply,
    dense,
    init,
    nt_xent,
    over_batches,
    reference,
)
from tests.interrupting import until
from tests.studies.ownstudies import TABLES
from tests.studies.test_sweep import assert_same_end

TRAIN, TEST = VIEWS[:27], VIEWS[27:]
GRID = {
    **{"optimizers": ["sgd"], "sam": ["none", "sam"], "seeds": 2, "epochs": 3, "batch_size": 8},
    **{"vary": {"learning_rate": (0.5, 0.1)}, "schedule": "cosine", "loss_below": None},
    **{"measures": ["gradient_norm", "top_eigenvalue", "margin"], "eigenvalue_tol": 1e-4},
    **{"track": ["top_eigenvalue", "batch_sharpness"], "track_size": 13},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    claims.warn_once.cache_clear()
    out = tmp_path_factory.mktemp("contrastive") / "whole"
    return out, studies.run(NETWORK, PAIRS, out=out, name="net", **GRID)


@pytest.mark.slow
def test_losses_and_measures_are_those_of_fixed_batches(whole):
    out, result = whole
    assert len(result.runs) == 8 and result.runs["train_loss"].nunique() == 8
    for row in result.runs.to_dict("records"):
        name = f"sgd-{'sam-' * (row['sam'] == 'sam')}lr{row['learning_rate']}"
        (run,) = out.glob(f"runs/{name}-*seed{row['seed']}")
        params, _ = runs.load_parameters(run)
        for split, views in (("train", TRAIN), ("test", TEST)):
            want = over_batches(lambda part, p=params: reference(p, part), views)
            np.testing.assert_allclose(row[f"{split}_loss"], want, rtol=1e-5)
        assert np.isnan(row["train_accuracy"]) and np.isnan(row["margin"])
        with jax.enable_x64(True):
            gradient, hessian = dense(jax.tree.map(np.float64, params), TRAIN, [None] * 27)
        np.testing.assert_allclose(row["gradient_norm"], np.linalg.norm(gradient), rtol=1e-3)
        top = np.linalg.eigvalsh(hessian)[-1]
        np.testing.assert_allclose(row["top_eigenvalue"], top, rtol=1e-3)
        table = runs.read_sharpness(run).set_index("measure")
        assert table["examples"]["top_eigenvalue"] == 24
        history = runs.read_history(run)
        with jax.enable_x64(True):
            few = dense(jax.tree.map(np.float64, params), TRAIN[:12], [None] * 12)[1]
        last = history.iloc[-1]
        np.testing.assert_allclose(last["top_eigenvalue"], np.linalg.eigvalsh(few)[-1], rtol=1e-2)
        assert np.isnan(last["top_eigenvalue_edge"])  # steps are of batches of another size


@pytest.mark.slow
def test_interrupted_anywhere_it_ends_with_the_same_tables(whole, tmp_path):
    out, _ = whole
    for left in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            studies.run(NETWORK, PAIRS, out=tmp_path, name="net", report=until(left), **GRID)
    studies.run(NETWORK, PAIRS, out=tmp_path, name="net", **GRID)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_another_batch_or_loss_under_the_same_name_is_refused(whole):
    out, _ = whole

    def warmer(outputs, targets):
        return nt_xent(outputs, targets, 0.6)

    warmer.__name__ = "nt_xent"
    for loss in (networks.whole_batch(nt_xent, 9), networks.whole_batch(warmer, SIZE)):
        with pytest.raises(RunError, match="network"):
            studies.run(NETWORK, PAIRS, out=out, name="net", loss=loss, **GRID)


@pytest.mark.slow
def test_a_step_descends_the_loss_of_its_batch(tmp_path, capsys):
    """All examples are the batch of a step, whatever the batches of the evaluation."""
    claims.warn_once.cache_clear()
    settings = {"epochs": 1, "batch_size": 27, "learning_rate": 0.3, "loss_below": None}
    few = {"optimizers": ["sgd"], "sam": ["none"], "seeds": 1, "measures": ["gradient_norm"]}
    studies.run(NETWORK, PAIRS, out=tmp_path, **settings, **few)
    (run,) = (tmp_path / "runs").iterdir()
    key = jax.random.split(jax.random.key(0), 4)[0]
    start = init(key)[0]
    step = jax.grad(lambda p: nt_xent(apply(p, {}, TRAIN, True)[0], None))(start)
    want = ravel_pytree(start)[0] - 0.3 * ravel_pytree(step)[0]
    found, _ = runs.load_parameters(run)
    np.testing.assert_allclose(ravel_pytree(found)[0], want, rtol=1e-5, atol=1e-6)
    told = "leave out what fills none, the last 3 of 27 training examples and 2 of 14 test examples"
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [False, True])
def test_a_member_of_a_sweep_does_not_depend_on_its_neighbours(tmp_path, vmapped):
    """One after the other to the bit; vmapped to rounding, which depends on the place."""
    bench = workbench(PAIRS, NETWORK)
    memory = Budget(2**24, 2**24, 2**24, vmapped=vmapped)

    def train(out, members):
        settings = {"epochs": 2, "batch_size": 8, "loss_below": None}
        configs = [
            runs.RunConfig("pairs", "net", "sgd", "sam", seed, runs.Settings(**settings, rho=rho))
            for seed, rho in members
        ]
        paths = [out / config.name for config in configs]
        for path, config in zip(paths, configs, strict=True):
            claims.claim_run(path, config)
        layout = studies.Layout(2, memory=memory)
        sweep.train(configs, paths, bench, save_every=50, layout=layout)
        return paths

    for left, right in zip(
        train(tmp_path / "both", [(0, 0.05), (1, 0.2)]),
        (train(tmp_path / "alone", [member])[0] for member in [(0, 0.05), (1, 0.2)]),
        strict=True,
    ):
        if not vmapped:
            assert_same_end(left, right)
        found, want = (ravel_pytree(runs.load_parameters(path)[0])[0] for path in (left, right))
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
        assert runs.read_history(left)["train_loss"].nunique() == 2


WRONG = {
    "over whole batches of 20 examples, and the data have 14": {
        "loss": networks.whole_batch(nt_xent, 20)
    },
    "returns shape (6,) for a batch": {"loss": networks.whole_batch(lambda f, y: f[:, 0, 0], SIZE)},
    "is a mean over examples": {
        "loss": networks.whole_batch(lambda f, y: np.square(1) * (f**2).mean(), SIZE)
    },
    "declare it over whole batches": {"loss": nt_xent},
    "batch_size is 1; with loss nt_xent, over whole batches of 6, it must be at": {"batch_size": 1},
    "measure_size is 5; with loss nt_xent": {"measure_size": 5},
    "track_size is 5; with loss nt_xent": {"track_size": 5, "track": ["gradient_norm"]},
    "sam is m_sam, which cuts a batch into groups": {"sam": ["m_sam"]},
    "mixup is 0.2 with loss nt_xent; it must be 0": {"mixup": 0.2},
    "label_smoothing is 0.1 with loss nt_xent; it must be 0": {"label_smoothing": 0.1},
    "last_batch is keep with loss nt_xent; it must be drop": {"last_batch": "keep"},
    "track has margin, which cannot be followed: it is of single examples": {"track": ["margin"]},
    "has top_eigenvalue:+:gap": {
        **{"hypotheses": ["top_eigenvalue:+:gap"], "measures": ["top_eigenvalue"]}
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_the_loss_does_not_allow_is_refused_before_anything_is_written(tmp_path, message):
    changes = {"out": tmp_path / "out", "batch_size": 8, "loss": LOSS} | WRONG[message]
    with pytest.raises(ValueError) as refused:
        studies.run(NETWORK, PAIRS, **changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


SOURCE = """
from tests.contrastive import NETWORK


def make():
    return NETWORK
"""


@pytest.mark.slow
def test_a_study_and_its_measures_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)
    (tmp_path / "pairs.py").write_text(SOURCE)
    arrays = [part for split in (PAIRS.train, PAIRS.test) for part in split]
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "mine.npz", **dict(zip(names, arrays, strict=True)))
    data = ["--model", "pairs.py:make", "--dataset", "mine.npz"]
    grid = ["--optimizers", "sgd", "--sam", "sam", "--seeds", "1", "--epochs", "2"]
    grid += ["--batch-size", "9", "--measures", "gradient_norm", "--out", "out"]
    cli.main(["study", *data, *grid, "--quiet"])
    (run,) = (tmp_path / "out" / "runs").iterdir()
    params, _ = runs.load_parameters(run)
    want = over_batches(lambda part: reference(params, part), TRAIN)
    np.testing.assert_allclose(runs.read_history(run)["train_loss"].iloc[-1], want, rtol=1e-5)
    cli.main(["sharpness", str(run), *data, "--measures", "frn", "--quiet"])
    assert list(runs.read_sharpness(run)["examples"]) == [24, 24]
    np.savez(tmp_path / "weights.npz", **params)
    capsys.readouterr()
    cli.main(["sharpness", "--params", "weights.npz", *data, "--measures", "gradient_norm"])
    assert "weights.npz on 24 examples of mine:" in capsys.readouterr().out
