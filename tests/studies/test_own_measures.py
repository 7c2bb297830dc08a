"""A measure of the user's own is known by what it computes, not by its name alone."""

import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxsharp import data, networks, runs, studies
from jaxsharp.measures import Options
from jaxsharp.runs import RunError, claims
from jaxsharp.studies import merge, status
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.origins import with_code
from jaxsharp.studies.workbench import workbench

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(30, 3)).astype(np.float32)
CLASSES = (INPUTS[:, 0] > 0).astype(np.int32)
MINE = data.from_arrays((INPUTS[:20], CLASSES[:20]), (INPUTS[20:], CLASSES[20:]), name="mine")
NETWORK = networks.Network(
    lambda key: ({"w": jax.random.normal(key, (3, 2))}, {}),
    lambda params, stats, x, train: (x @ params["w"], stats),
)
BENCH = workbench(MINE, NETWORK)


ONES = np.ones(3, np.float32)


def norm_to(power, bound=ONES):
    """A measure that is called norm whatever it computes."""

    def norm(network, params, stats, batch, key):
        return (jnp.abs(params["w"]) ** power).sum() + bound.sum()

    return norm


def code(fn, **options):
    return with_code(fn, BENCH, Options(), **options).code


def test_a_traced_function_is_its_program():
    assert code(norm_to(2)) == code(norm_to(2)) == code(lambda *at: norm_to(2)(*at))
    others = [norm_to(3), norm_to(2, bound=np.full(3, 1 + 1e-6, np.float32))]
    others += [lambda *at: (norm_to(2)(*at), 0.5), lambda *at: 2 * norm_to(2)(*at)]
    codes = [code(fn) for fn in (norm_to(2), *others)]
    assert len(set(codes)) == len(codes)
    assert code(of_data) != code(of_data, size=7)
    assert with_code(norm_to(2), BENCH, Options()).settings(Options()) == f"code={codes[0]}"


def of_data(network, params, stats, batch, key):
    """A number of the data."""
    return batch[0].sum()


def on_the_host(network, params, stats, batch, key):
    """Calls back to Python, so that its program tells nothing."""
    return jax.pure_callback(lambda w: np.sum(w), jax.ShapeDtypeStruct((), "float32"), params["w"])


def on_the_host_too(network, params, stats, batch, key):
    """Calls back to Python for something else."""
    return jax.pure_callback(lambda w: np.max(w), jax.ShapeDtypeStruct((), "float32"), params["w"])


def fails(network, params, stats, batch, key):
    """Cannot be traced."""
    return float(params["w"].sum())


def fails_too(network, params, stats, batch, key):
    """Cannot be traced either."""
    return float(params["w"].max())


def test_another_function_is_its_source():
    found = [code(fn) for fn in (on_the_host, on_the_host_too, fails, fails_too)]
    assert len(set(found)) == 4 and found == [
        code(fn) for fn in (on_the_host, on_the_host_too, fails, fails_too)
    ]
    text = "def f(n, params, s, b, k):\n    return float({}(params['w'].sum() + {}))"
    made = []
    for function, number in (("abs", 1), ("abs", 1), ("abs", 2), ("round", 1)):
        names = {}
        exec(compile(text.format(function, number), "<typed>", "exec"), names)  # no source
        made.append(code(names["f"]))
    assert made[0] == made[1] and len(set(made)) == 3
    large = [np.full(2000, i) for i in (1, 2, 1)]
    for values in ((1, 2, 1), large):
        bound = [code(functools.partial(late, power=value)) for value in values]
        closed = [code(lambda *at, value=value: late(*at, value)) for value in values]
        kept = [code(closing(value)) for value in values]
        objects = [code(Late(value)) for value in values]
        for found in (bound, closed, kept, objects):
            assert found[0] == found[2] != found[1]


def late(network, params, stats, batch, key, power):
    """Cannot be traced, with an argument that is bound."""
    return float(params["w"].sum()) ** power


def closing(value):
    def closed(*at):
        return late(*at, value)

    return closed


class Late:
    """The same as an object that is called."""

    def __init__(self, value):
        self.value = value

    def __call__(self, *at):
        return late(*at, self.value)


STUDY = {
    "optimizers": ["sgd"],
    "sam": ["none"],
    "seeds": 2,
    "epochs": 3,
    "batch_size": 10,
    "save_losses": 100.0,
    "loss_below": None,
}


def run(out, *fns, **changes):
    measures = [*fns, "gradient_norm"]
    return studies.run(NETWORK, MINE, out=out, measures=measures, **{**STUDY, **changes}).runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    return root, run(root / "first", norm_to(2)), run(root / "second", norm_to(3))


@pytest.mark.slow
def test_values_of_another_function_are_taken_again_and_named(made, tmp_path, capsys):
    root, first, second = made
    assert not np.allclose(first["norm"], second["norm"])
    out = shutil.copytree(root / "first", tmp_path / "out")
    again = run(out, norm_to(2))
    assert capsys.readouterr().err == ""
    pd.testing.assert_frame_equal(again, first)

    (path, *_) = sorted((out / "runs").iterdir())
    before = runs.read_sharpness(path)
    assert before["settings"].iloc[-1] == f"code={code(norm_to(2))}"
    with pytest.raises(KeyboardInterrupt):
        run(out, norm_to(3), report=stopped)
    after = [runs.read_sharpness(path), runs.read_checkpoint_sharpness(path)]
    assert [list(table["measure"]) for table in after] == [["gradient_norm"]] * 2
    line = f"jaxsharp: warning: {out}: norm is another function than the one that measured "
    change = " -> ".join(code(norm_to(power))[:8] for power in (2, 3))
    assert capsys.readouterr().err == f"{line}({change}); it is taken again\n"
    grown = run(out, norm_to(3))
    pd.testing.assert_frame_equal(grown, second)
    for name in ("runs.csv", "checkpoints.csv", "summary.csv"):
        assert (out / name).read_bytes() == (root / "second" / name).read_bytes()
    assert "2 runs: 2 trained (0 converged, 0 diverged), 2 measured" in status.describe(out)
    again = runs.read_sharpness(path)
    assert again[again["measure"] == "gradient_norm"].equals(
        before[before["measure"] == "gradient_norm"]
    )


def stopped(progress):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_values_without_a_code_are_of_an_older_version_and_taken_again(made, tmp_path, capsys):
    root, first, _ = made
    out = shutil.copytree(root / "first", tmp_path / "out")
    for path in (out / "runs").iterdir():
        table = runs.read_sharpness(path)
        table.loc[table["measure"] == "norm", ["settings", "value"]] = ["", -1.0]
        studies.measuring.measurements.write_sharpness(path, table)
    pd.testing.assert_frame_equal(run(out, norm_to(2)), first)
    assert f"(unknown -> {code(norm_to(2))[:8]})" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_of_two_functions_are_not_merged(made, tmp_path):
    root, first, _ = made
    for index, source in ((1, "first"), (2, "second")):
        part = shutil.copytree(root / source, tmp_path / f"part{index}")
        found = StudyConfig.from_dict(claims.read_config(part)).as_dict()
        claims.write_config(part, {**found, "shard": f"{index}/2"})
    parts = [tmp_path / "part1", tmp_path / "part2"]
    with pytest.raises(RunError, match=r"seed1 has norm of another function than .*seed0 .code="):
        merge.merge(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(parts[1] / "runs")
    shutil.copytree(root / "first" / "runs", parts[1] / "runs")
    merge.merge(parts, tmp_path / "out")
    names = sorted(path.name for path in Path(tmp_path / "out" / "runs").iterdir())
    assert len(names) == 2 and len(first) == 2
