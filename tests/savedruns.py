"""A run with two checkpoints, saved without training, that a test reads, damages or replaces."""

import pytest

from jaxsharp.runs import RunConfig, Settings, claims, directory
from tests.folders import MADE_FROM, history_to, state_at

CONFIG = RunConfig("digits", "small_mlp", "adam", "sam", 3, Settings(epochs=7))


def saved_run(path, *epochs):
    claims.claim_run(path, CONFIG)
    for epoch in epochs:
        directory.save(path, state_at(epoch), history_to(epoch), MADE_FROM)
    return path


@pytest.fixture
def run(tmp_path):
    return saved_run(tmp_path / "run", 2, 4)
