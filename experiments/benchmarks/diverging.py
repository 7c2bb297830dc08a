"""A member that diverges among others that must not notice it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxsharp import data, runs
from jaxsharp.runs import RunConfig, Settings, claims, tables
from jaxsharp.studies import sweep
from jaxsharp.studies.workbench import workbench
from jaxsharp.training import epochs

SEEDS = range(4)
SETTINGS = {"epochs": 3, "batch_size": 20, "train_size": 200}


def difference(out: Path, seed: int) -> str:
    """Train a group as ever and with a member that diverges; what is wrong, or ""."""
    rng = np.random.default_rng(seed)
    bad, kind = int(rng.integers(len(SEEDS))), str(rng.choice(["rate", "weights"]))
    expected = group(out / "ever", None, "")
    found = group(out / "diverging", bad, kind)
    for i, (history, row) in enumerate(found):
        if i == bad and not row["diverged"]:
            return f"member {i} ({kind}) is not marked as diverged"
        if i != bad and (row["diverged"] or not history.equals(expected[i][0])):
            return f"member {i} is not as ever beside member {bad} ({kind})"
    return ""


def group(out: Path, bad: int | None, kind: str) -> list[tuple[pd.DataFrame, dict]]:
    """History and row of every member; the one that is ``bad`` has a wrong rate or weights."""
    configs, paths = [], [out / f"seed{i}" for i in SEEDS]
    for i, path in zip(SEEDS, paths, strict=True):
        rate = 1e30 if i == bad and kind == "rate" else 0.1
        settings = Settings(**SETTINGS, learning_rate=rate)
        configs.append(RunConfig("digits", "small_mlp", "sgd", "none", i, settings))
        claims.claim_run(path, configs[-1])
    bench = workbench(data.load("digits", train_size=SETTINGS["train_size"]), "small_mlp")
    if kind == "weights":
        network = bench.trained._replace(init=spoiled(bench.trained.init, bad))
        bench = bench._replace(trained=network)
    sweep.train(configs, paths, bench, save_every=1)
    return [(runs.read_history(path), tables.row(path)) for path in paths]


def spoiled(init, bad: int):
    """``init`` that gives NaN to the member with the seed ``bad``."""
    key_data = jax.random.key_data(epochs.streams(bad).init)

    def spoiled_init(key):
        params, stats = init(key)
        is_bad = jnp.all(jax.random.key_data(key) == key_data)
        return jax.tree.map(lambda leaf: jnp.where(is_bad, jnp.nan, leaf), params), stats

    return spoiled_init


def table_difference(ever: Path, found: Path, rate: float) -> str:
    """What is wrong in the runs.csv of a study, one rate of which makes runs diverge, or ""."""
    ever, found = (pd.read_csv(path, dtype=str).fillna("") for path in (ever, found))
    is_bad = found["learning_rate"].astype(float) == rate
    healthy = found[~is_bad].reset_index(drop=True)
    if not healthy.equals(
        ever[ever["learning_rate"].isin(healthy["learning_rate"])].reset_index(drop=True)
    ):
        return "rows of the other rate differ"
    spoiled_rows = found[is_bad]
    infinite = ~np.isfinite(spoiled_rows["train_loss"].replace("", "nan").astype(float))
    marked = (spoiled_rows["diverged"] == "True") & (spoiled_rows["minimum_sharpness"] == "")
    wrong = spoiled_rows[infinite != marked]
    return f"not marked: {', '.join(wrong['optimizer'] + ' ' + wrong['sam'])}" if len(wrong) else ""
