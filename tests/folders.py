"""Folders of runs and studies as training leaves them, made without training."""

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxsharp.measures import MEASURES, Record
from jaxsharp.runs import Settings, claims, directory, measurements
from jaxsharp.runs.columns import HISTORY, SHARPNESS
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies import StudyConfig, measuring
from jaxsharp.training import TrainState

STUDY = StudyConfig(
    optimizers=("sgd", "adam"),
    sam=("none",),
    seeds=2,
    measures=("top_eigenvalue",),
    settings=Settings(epochs=3),
)
MADE_FROM = Fingerprint(*("0123456789abcdef" * 2 for _ in range(6)), "0.10.0", "cpu")


def state_at(epoch, *, converged=False, diverged=False):
    scalars = (jnp.int32(epoch), jnp.float32(1 / epoch), jnp.int32(0))
    flags = (jnp.array(converged), jnp.array(diverged))
    return TrainState({"w": jnp.full(3, epoch / 3)}, {}, (), *scalars, *flags)


def history_to(epoch):
    columns = {name: np.float32(1 / (np.arange(epoch) + i + 3)) for i, name in enumerate("abcd")}
    table = pd.DataFrame({"epoch": range(1, epoch + 1), **columns})
    return table.set_axis(list(HISTORY), axis=1)


def damage(saved):
    """Cut the largest file of a checkpoint in half."""
    file = max((p for p in saved.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def make_run(path, member, *, epoch=3, measures=STUDY.measures, made_from=MADE_FROM, **ends):
    """A run that is trained up to an epoch, and measured."""
    claims.claim_run(path, member)
    directory.save(path, state_at(epoch, **ends), history_to(epoch), made_from)
    measurements.write_sharpness(path, pd.DataFrame(columns=list(SHARPNESS)))
    for name in measures:
        measure = MEASURES[name]
        settings = measure.settings(STUDY.options)
        at = measuring.Place(member, path)
        measuring.record(at, name, measure, settings, Record(1.5, 0.5, True, 12, 16, 0, True))
    return path


def make_study(out, config=STUDY, **made):
    """A study, or a part of one, whose runs are finished."""
    claims.claim(out, config.as_dict())
    for member in config.shard_members():
        make_run(out / "runs" / member.name, member, **made)
    return out
