"""Tails from common checkpoints: where they begin, and what is compared."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

from experiments import interventions
from jaxsharp import runs
from jaxsharp.networks import Network
from jaxsharp.training.epochs import streams


def test_each_seed_begins_at_its_own_checkpoint():
    starts = [({"w": np.full(3, 10.0 + i)}, {"mean": np.full(2, 20.0 + i)}) for i in range(3)]
    network = interventions.starting_from(Network(init=None, apply=None), starts)
    for seed, (params, stats) in enumerate(starts):
        found = jax.jit(network.init)(streams(seed).init)
        np.testing.assert_array_equal(found[0]["w"], params["w"])
        np.testing.assert_array_equal(found[1]["mean"], stats["mean"])


def tail(rate, rho, seed, eigenvalue, accuracy, size=32):
    measured = {"top_eigenvalue": eigenvalue, "minimum_sharpness": 3.0, "converged": True}
    sizes = {"batch_size": size, "test_accuracy": accuracy, "gap": 1 - accuracy}
    return {"learning_rate": rate, "rho": rho, "seed": seed} | measured | sizes


def test_tails_are_compared_with_the_plain_one_of_their_seed_and_batch_size():
    nan = float("nan")
    rows = []
    for seed, height in enumerate((1.0, 10.0, 100.0)):
        rows.append(tail(0.1, nan, seed, height, 0.5 + seed / 10))
        rows.append(tail(0.1, 0.05, seed, height / 4, 0.6 + seed / 10))
        rows.append(tail(0.1, nan, seed, 7.0, 0.1, size=128))
        for rate, rho in ((0.05, nan), (0.2, nan), (0.1, 0.1)):
            rows.append(tail(rate, rho, seed, 3 * height * (1 + seed), 0.5 + seed / 5))
        for rate, rho in ((0.05, nan), (0.2, nan), (0.1, 0.05), (0.1, 0.1)):
            rows.append(tail(rate, rho, seed, 14.0, 0.3, size=128))
    table = interventions.compare(pd.DataFrame(rows[::-1]))
    of = table.set_index(["batch_size", "learning_rate", "rho"])
    sam = of.loc[(32, 0.1, 0.05)]
    assert sam["top_eigenvalue_factor"] == pytest.approx(0.25)
    assert sam["test_accuracy_change"] == pytest.approx(0.1)
    assert sam["gap_change"] == pytest.approx(-0.1)
    other = of.loc[(32, 0.2, 0.0)]
    assert other["top_eigenvalue_factor"] == pytest.approx(3 * 6 ** (1 / 3))
    low, high = other["top_eigenvalue_factor_low"], other["top_eigenvalue_factor_high"]
    assert low < other["top_eigenvalue_factor"] < high
    assert other["test_accuracy_change"] == pytest.approx(0.1)
    assert of.loc[(128, 0.05, 0.0)]["top_eigenvalue_factor"] == pytest.approx(2)
    plain = of.loc[(32, 0.1, 0.0)]
    assert np.isnan(plain["top_eigenvalue_factor"])
    assert plain["top_eigenvalue"] == pytest.approx(10)


@pytest.mark.slow
def test_tails_go_on_from_the_checkpoints(tmp_path, capsys):
    interventions.interventions(out=tmp_path, seeds=1, smoke=True)
    assert len(pd.read_csv(tmp_path / "interventions.csv")) == 5
    assert "top_eigenvalue_factor" in capsys.readouterr().out
    folders = (tmp_path / "start" / "runs" / "sgd-seed0", tmp_path / "rates" / "runs")
    start, after = folders[0], folders[1] / "sgd-lr0.05-bs30-seed0"
    start, after = (ravel_pytree(runs.load_parameters(run)[0])[0] for run in (start, after))
    # Five steps lead that far; other initial weights would be 1.4 norms away.
    assert 0 < jnp.linalg.norm(after - start) < 0.1 * jnp.linalg.norm(start)


def test_the_page_says_what_its_runs_have():
    """SAM lowers the eigenvalue at both batch sizes, and no tail is more accurate beyond doubt."""
    results = Path(__file__).parents[1] / "results"
    folder = results / "interventions"
    text, ledger = (re.sub(r"\s+", " ", (x / "README.md").read_text()) for x in (folder, results))
    tails = pd.read_csv(folder / "runs.csv")
    assert len(tails) == 50 and tails["converged"].all()
    assert f"in {tails['epochs'].min()} to {tails['epochs'].max()} epochs" in text
    table = interventions.compare(tails)
    pd.testing.assert_frame_equal(table, pd.read_csv(folder / "interventions.csv"))

    def cell(row, name, form):
        found = [format(row[f"{name}{end}"], form) for end in ("", "_low", "_high")]
        return "{} [{}, {}]".format(*found)

    apart = 0
    for _, row in table.iterrows():
        tail = int(row["batch_size"]), row["learning_rate"], row["rho"]
        if tail[1:] == (0.1, 0.0):
            continue
        factors = [cell(row, f"{name}_factor", ".2f") for name in interventions.MEASURES]
        changes = [cell(row, f"{name}_change", "+.4f") for name in ("test_accuracy", "gap")]
        where = f"{tail[0]} | {tail[1]:g} | {tail[2]:g}"
        assert f"| {where} | {' | '.join([*factors, *changes])} |" in text
        low, high = (row[f"test_accuracy_change_{end}"] for end in ("low", "high"))
        apart += int(high < 0) + int(row["gap_change_low"] > 0) + int(row["gap_change_high"] < 0)
        assert low < 0, "no tail is more accurate beyond doubt"
        if tail[2]:
            assert row["top_eigenvalue_factor_high"] < 1
        if tail[1] == 0.2:
            assert (row["top_eigenvalue_factor_high"] > 1) == (tail[0] == 32)
        if tail[1] == 0.2 or tail[2] == 0.1:
            assert factors[0] in ledger and changes[0] in ledger
    assert apart == 4
