"""Members that share a program, its places and its checkpoints, each as if it were alone."""

import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxsharp import runs, studies
from jaxsharp.runs import RunConfig, Settings, claims, directory
from jaxsharp.studies import interrupts, sweep
from jaxsharp.studies.study import describe
from jaxsharp.studies.workbench import workbench
from tests.studies.test_sweep import assert_same_end
from tests.tinynets import mlp, tiny_dataset

SETTINGS = Settings(epochs=5, batch_size=8, loss_below=None)
ALL, WIDTH = range(5), 2
# They stop at different epochs: the second diverges, the others' losses fall at their own rates.
NUMBERS = [
    {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0, "rho": 0.05},
    {"learning_rate": 1e30, "momentum": 0.1, "weight_decay": 0.0, "rho": 0.1},
    {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "rho": 0.2},
    {"learning_rate": 0.2, "momentum": 0.5, "weight_decay": 0.1, "rho": 0.0, "label_noise": 0.5},
    {"learning_rate": 0.02, "momentum": 0.5, "weight_decay": 0.0, "rho": 0.5},
]


@pytest.fixture(scope="module")
def bench():
    network = mlp()
    return workbench(tiny_dataset(num=40), "small_mlp")._replace(network=network, trained=network)


def train(root, bench, indices=ALL, *, width=WIDTH, **rest):
    configs, paths = [], []
    for i in indices:
        settings = replace(SETTINGS, **NUMBERS[i])
        configs.append(RunConfig("tiny", "small_mlp", "heavy_ball", "sam", i, settings))
        paths.append(root / configs[-1].name)
        claims.claim_run(paths[-1], configs[-1])
    sweep.train(configs, paths, bench, save_every=50, layout=studies.Layout(width), **rest)
    return paths


@pytest.fixture(scope="module")
def group(tmp_path_factory, bench):
    """The group in two places; how many programs it took, and the progress after every epoch."""
    programs, told = [], []
    with pytest.MonkeyPatch.context() as patch:
        make = sweep.epoch_program

        def kept(*arguments):
            programs.append(make(*arguments))
            return programs[-1]

        patch.setattr(sweep, "epoch_program", kept)
        paths = train(tmp_path_factory.mktemp("group"), bench, report=told.append)
    return paths, programs, told


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(NUMBERS)))
def test_a_member_ends_as_it_does_alone(tmp_path, bench, group, index):
    """Whatever its numbers and neighbours, and however often others changed places with it."""
    assert_same_end(group[0][index], train(tmp_path, bench, [index])[0])


@pytest.mark.slow
def test_one_program_serves_a_group_whatever_changes_places(group):
    paths, (program,), told = group
    assert program._cache_size() == 1
    lengths = [len(runs.read_history(path)) for path in paths]
    assert lengths == [5, 1, 5, 5, 5]  # the second leaves its place while the first goes on
    assert len(told) == 11  # 21 epochs of members in two places
    last = told[-1]
    assert (last.members, last.stopped, last.converged, last.diverged) == (5, 5, 0, 1)
    assert (last.epochs, last.trained) == (25, 21)
    assert describe(told[2]) == "epoch 3, 1 of 5 done, 1 diverged"


def test_the_numbers_of_a_member_matter(group):
    losses = [runs.read_history(path)["train_loss"].iloc[-1] for path in group[0]]
    assert len(set(losses)) == len(losses)


@pytest.mark.slow
def test_the_program_of_an_accelerator_narrows_and_gives_the_same(
    tmp_path, bench, group, monkeypatch
):
    """Of 5 places 4 would go on, but widths are halves: from 4 places to 2 when three stopped."""
    widths, advance = [], sweep.advance

    def watched(places, states, metrics, save_every):
        widths.append(len(places))
        for member, loss in zip(places, np.asarray(metrics.train_loss), strict=True):
            if member is None:
                assert np.isnan(loss)  # a place that is idle has no numbers to give
        return advance(places, states, metrics, save_every)

    monkeypatch.setattr(sweep, "advance", watched)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = train(tmp_path, bench, width=4)
    assert widths == [4, 4, 4, 4, 4, 1]  # the fifth takes the place of the second
    for ours, theirs in zip(found, group[0], strict=True):
        one, other = (runs.read_history(path).to_numpy() for path in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        assert directory.latest_checkpoint(ours).name == directory.latest_checkpoint(theirs).name


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_is_an_error_and_no_hang(tmp_path, bench, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, bench, [0, 1, 2])


@pytest.mark.slow
def test_sigterm_finishes_the_epoch_saves_and_continues(tmp_path, bench, group, capsys):
    def stop(progress):
        if progress.trained == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, bench, [2, 3], report=stop)
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    assert "finishing the epoch" in capsys.readouterr().err
    ends = sorted(p.name for p in tmp_path.glob("*/checkpoints/*"))
    assert ends == ["epoch_0002", "epoch_0002"]
    for index, path in zip([2, 3], train(tmp_path, bench, [2, 3]), strict=True):
        assert_same_end(path, group[0][index])


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_the_second_signal_stops_at_once(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as requested:
        assert not requested()
        os.kill(os.getpid(), number)
        assert requested()
        os.kill(os.getpid(), number)
        pytest.fail("the second signal was deferred")
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err.count("\n") == 1
