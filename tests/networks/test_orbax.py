"""Parameters from checkpoints of orbax: as Linen and NNX save them, and what does not fit."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx

from jaxsharp import cli, networks
from jaxsharp.cli import commands
from jaxsharp.training import members

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 4, 4, 2)).astype(np.float32)


class Net(nnx.Module):
    """A convolution, BatchNorm, dropout and dense layers in a list."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (2, 2), padding="VALID", rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.List([nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 4, rngs=rngs)])

    def __call__(self, x):
        x = self.drop(self.norm(self.conv(x))).mean((1, 2))
        return self.last[1](self.last[0](x))


class Module(linen.Module):
    """The same of Linen, without dropout."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(not train)(linen.Conv(3, (2, 2), padding="VALID")(x))
        return linen.Dense(4)(x.mean((1, 2)))


def drawn(tree):
    """Numbers in the places of a tree, but for keys."""
    draw = lambda leaf: RNG.uniform(0.5, 1, leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(lambda leaf: draw(leaf) if leaf.dtype == np.float32 else leaf, tree)


def saved(path, tree, checkpointer=ocp.StandardCheckpointer):
    with checkpointer() as made:
        made.save(path, tree)
    return path


@pytest.fixture(scope="module")
def trained():
    """A module of NNX that was trained elsewhere, and what it computes."""
    model = Net(nnx.Rngs(0))
    nnx.update(model, drawn(nnx.state(model, nnx.Not(nnx.RngState))))
    model.eval()
    return nnx.state(model), np.asarray(model(IMAGES))


@pytest.mark.parametrize("checkpointer", [ocp.StandardCheckpointer, ocp.PyTreeCheckpointer])
@pytest.mark.parametrize("form", ["state", "without streams", "dictionaries", "under params"])
def test_a_module_of_nnx_is_the_same_function(tmp_path, trained, form, checkpointer):
    state, outputs = trained
    if form != "state":
        state = nnx.filter_state(state, nnx.Not(nnx.RngState))
    if form in ("dictionaries", "under params"):
        state = nnx.to_pure_dict(state)
    tree = {"params": state} if form == "under params" else state
    network = networks.from_nnx(lambda rngs: Net(rngs))
    found = networks.load_weights(saved(tmp_path / "at", tree, checkpointer), network)
    np.testing.assert_allclose(network.evaluate(*found, IMAGES), outputs, rtol=1e-5)


def test_the_variables_of_a_module_of_linen_are_the_same_function(tmp_path):
    module = Module()
    variables = drawn(module.init(jax.random.key(0), IMAGES, False))
    network = networks.from_linen(module, IMAGES)
    found = networks.load_weights(saved(tmp_path / "at", variables), network)
    want = module.apply(variables, IMAGES, False)
    np.testing.assert_allclose(network.evaluate(*found, IMAGES), want, rtol=1e-6)


def test_what_does_not_fit_is_named_in_one_line(tmp_path):
    network = networks.from_nnx(lambda rngs: nnx.Linear(3, 4, rngs=rngs))
    kernel, bias = np.ones((3, 4), np.float32), np.ones(4, np.float32)

    def said(path, tree=None):
        if tree is not None:
            saved(path, tree)
        with pytest.raises(ValueError) as refused:
            networks.load_weights(path, network)
        assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
        return str(refused.value)

    assert "missing: bias" in said(tmp_path / "a", {"kernel": kernel})
    more = {"kernel": kernel, "bias": bias, "step": np.array(3)}
    assert "surplus: step" in said(tmp_path / "b", more)
    wide = {"kernel": np.ones((3, 5), np.float32), "bias": bias}
    assert "kernel of (3, 5) for kernel of (3, 4)" in said(tmp_path / "c", wide)
    with ocp.CheckpointManager(tmp_path / "manager") as manager:
        manager.save(7, args=ocp.args.StandardSave({"kernel": kernel, "bias": bias}))
    for folder in ("manager", "manager/7"):
        assert f"those in it are {tmp_path / 'manager/7/default'}" in said(tmp_path / folder)
    params, _ = networks.load_weights(tmp_path / "manager/7/default", network)
    np.testing.assert_array_equal(params["bias"], bias)
    (tmp_path / "empty").mkdir()
    assert "is no checkpoint of orbax; valid are" in said(tmp_path / "empty")
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(b"")
    assert "cannot be read: " in said(tmp_path / "a")
    (tmp_path / "a" / "_METADATA").write_text("{")
    assert "cannot be read: " in said(tmp_path / "a")


def test_the_command_line_measures_them(tmp_path, monkeypatch, capfd):
    for owner, name in ((commands, "use_compilation_cache"), (members, "cores_as_devices")):
        monkeypatch.setattr(owner, name, lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)
    np.savez(
        tmp_path / "d.npz",
        **{name: RNG.normal(size=(8, 3)).astype(np.float32) for name in ("x_train", "x_test")},
        **{name: np.arange(8) % 4 for name in ("y_train", "y_test")},
    )
    (tmp_path / "net.py").write_text(
        "from flax import nnx\n\n\ndef make(rngs):\n    return nnx.Linear(3, 4, rngs=rngs)\n"
    )
    path = saved(tmp_path / "at", {"kernel": np.ones((3, 4), np.float32), "bias": np.zeros(4)})
    data = ["--dataset", str(tmp_path / "d.npz"), "--model", f"{tmp_path / 'net.py'}:make"]
    capfd.readouterr()
    cli.main(["sharpness", "--params", str(path), *data, "--measures", "parameter_norm"])
    out, err = capfd.readouterr()
    assert "parameter_norm  3.46" in out and err == ""
