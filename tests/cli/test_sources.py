"""The user's own network, data and parameters from the command line."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from PIL import Image

from jaxsharp import cli, measures, networks
from jaxsharp.cli import commands
from jaxsharp.cli.sources import dataset_name, network_of, pairs_of
from jaxsharp.training import members

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
SOURCE = """
from flax import nnx
from jaxsharp import networks


class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.first, self.last = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))


def plain():
    return networks.from_nnx(lambda rngs: Net(rngs=rngs))


def two(a, b):
    return None


def fails(rngs):
    raise KeyError("as it says")


def nothing():
    return 3
"""
SMALL = ["--optimizers", "sgd", "--sam", "none", "--seeds", "1", "--epochs", "2", "--quiet"]
SMALL += ["--batch-size", "10", "--measures", "top_eigenvalue"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(members, "cores_as_devices", lambda: None)
    monkeypatch.setattr(commands.signals, "handle", lambda: None)
    (tmp_path / "mynet.py").write_text(SOURCE)
    np.savez(tmp_path / "mine.npz", x_train=X[:50], y_train=Y[:50], x_test=X[50:], y_test=Y[50:])
    table = pd.DataFrame(X).assign(target=Y)
    table.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    err = capsys.readouterr().err.strip().removeprefix("jaxsharp: error: ")
    assert "\n" not in err
    return err


@pytest.mark.slow
def test_a_study_of_a_file_and_its_runs_are_measured_again(mine, capsys):
    own = ["--dataset", "mine.npz", "--model", "mynet.py:Net"]
    cli.main(["study", *own, *SMALL, "--out", "out", "--schedule", "linear"])
    (row,) = pd.read_csv("out/runs.csv").to_dict("records")
    assert (row["dataset"], row["model"], row["epochs"]) == ("mine", "mynet.Net", 2)
    (run,) = map(str, Path("out/runs").iterdir())
    assert "unknown model 'mynet.Net'" in refusal(capsys, "sharpness", run)
    told = ["sharpness", run, *own, "--measures", "minimum_sharpness", "--quiet"]
    cli.main(told)
    assert "minimum_sharpness" in capsys.readouterr().out
    (mine / "mynet.py").write_text(SOURCE.replace("nnx.relu", "nnx.tanh"))
    assert "network" in refusal(capsys, *told)


@pytest.mark.slow
def test_parameters_that_were_trained_elsewhere_are_measured(mine, capsys):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)))

    network = networks.from_nnx(Net)
    params, stats = network.init(jax.random.key(5))
    flat = {
        f"{layer}.{name}": np.asarray(leaf)
        for layer, part in params.items()
        for name, leaf in part.items()
    }
    np.savez(mine / "w.npz", **flat)
    own = ["--model", "mynet.py:plain", "--params", "w.npz", "--dataset", "table.csv"]
    cli.main(["sharpness", *own, "--holdout", "10", "--measures", "minimum_sharpness"])
    want = measures.minimum_sharpness(network, params, stats, (X[:50], Y[:50])).value
    out = capsys.readouterr().out
    assert f"minimum_sharpness  {want:.6g}"[:24] in out and "50 examples of table" in out


@pytest.mark.slow
def test_a_run_on_mapped_arrays_has_the_bits_of_one_in_memory(mine):
    (mine / "arrays" / "mine").mkdir(parents=True)
    with np.load("mine.npz") as file:
        for name, array in file.items():
            np.save(mine / "arrays" / "mine" / f"{name}.npy", array)
    told = ["train", "--model", "mynet.py:Net", "--epochs", "2", "--batch-size", "8", "--quiet"]
    for dataset, out in (("mine.npz", "one"), ("arrays/mine", "two")):
        cli.main([*told, "--dataset", dataset, "--out", out])
    for file in ("history.csv", "checkpoints/epoch_0002/arrays.npz"):
        assert (mine / "one" / file).read_bytes() == (mine / "two" / file).read_bytes()
    # The same arrays are the same data set, wherever they are.
    made = [mine / each / "checkpoints/epoch_0002/fingerprint.json" for each in ("one", "two")]
    assert made[0].read_text() == made[1].read_text()


@pytest.mark.slow
def test_a_run_on_a_folder_of_images_is_tied_to_its_pixels(mine, capsys):
    for part, count in (("train", 20), ("test", 4)):
        for label, each in enumerate(("cat", "dog")):
            (mine / "my images" / part / each).mkdir(parents=True)
            for i in range(count // 2):
                pixels = RNG.integers(100 * label, 100 * label + 100, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(mine / "my images" / part / each / f"{i}.png")
    told = ["train", "--dataset", "my images", "--model", "small_mlp", "--epochs", "2", "--quiet"]
    told += ["--batch-size", "10", "--out", "out"]
    cli.main(told)
    config = json.loads((mine / "out" / "config.json").read_text())
    assert (config["dataset"], config["model"]) == ("my-images", "small_mlp")
    Image.fromarray(pixels[::-1]).save(mine / "my images" / "train" / "cat" / "3.png")
    assert "other data under the same name (train images" in refusal(capsys, *told)
    Image.fromarray(pixels[:4]).save(mine / "my images" / "train" / "cat" / "3.png")
    assert "train/cat/3.png has 8 x 4 pixels and" in refusal(capsys, *told)


WRONG = {
    "mynet.py has no function nope": ["--model", "mynet.py:nope"],
    "absent.py is no file": ["--model", "absent.py:Net"],
    "mynet.py:two: takes a, b; it must take nnx.Rngs alone": ["--model", "mynet.py:two"],
    "mynet.py:fails: KeyError: 'as it says'": ["--model", "mynet.py:fails"],
    "mynet.py:nothing returns int": ["--model", "mynet.py:nothing"],
    "broken.py cannot be run: SyntaxError": ["--model", "broken.py:Net"],
    "unknown model 'mynet.py'": ["--model", "mynet.py"],
    "simple_batch takes images; the inputs of mine are real numbers": ["--model", "simple_batch"],
    "absent.npz is no file": ["--dataset", "absent.npz"],
    "table.csv: there is no test part": ["--dataset", "table.csv"],
    "unknown dataset 'mine'": ["--dataset", "mine"],
    "unknown loss 'mse'": ["--loss", "mse"],
    "targets of shape (16,) do not fit the loss squared_error": ["--loss", "squared_error"],
    "unknown schedule 'cosin'; valid are cosine": ["--schedule", "cosin"],
    "augment is crop for inputs of shape (50, 4)": ["--augment", "crop"],
    "warmup_epochs is 2": ["--warmup-epochs", "2"],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_no_study_can_be_made_of_is_refused_in_one_line(mine, capsys, message):
    (mine / "broken.py").write_text("def Net(:")
    usual = {"--dataset": "mine.npz", "--model": "mynet.py:Net", "--epochs": "2"}
    option, value = WRONG[message]
    given = [text for pair in {**usual, option: value}.items() for text in pair]
    assert message in refusal(capsys, "study", *given, "--batch-size", "10", "--out", "out")
    assert not (mine / "out").exists()


def test_parameters_need_a_network_and_data(mine, capsys):
    assert "give a run directory, a study, or --params" in refusal(capsys, "sharpness")
    assert "params needs --model and --dataset" in refusal(capsys, "sharpness", "--params", "w.npz")


@pytest.mark.parametrize(
    ("dataset", "name", "model"),
    [
        ("digits", "digits", "small_mlp"),
        ("cifar10", "cifar10", "simple_batch"),
        ("a folder/my table.csv", "my-table", "small_mlp"),
        ("a folder/my book.TXT", "my-book", "gpt"),
        ("hf:owner/set:small#label", "owner-set-small-label", "small_mlp"),
        ("hf:owner/texts.txt", "owner-texts.txt", "small_mlp"),
        ("tfds:cifar100", "cifar100", "small_mlp"),
    ],
)
def test_a_data_set_has_a_name_and_a_usual_network(dataset, name, model):
    assert dataset_name(dataset) == name
    assert network_of(None, dataset) == (model, model)
    assert network_of("resnet_20", dataset) == ("resnet_20", "resnet_20")


def test_a_folder_has_its_own_name_and_is_of_images(tmp_path, monkeypatch):
    (tmp_path / "my images 1.0").mkdir()
    monkeypatch.chdir(tmp_path / "my images 1.0")
    for dataset in (".", "../my images 1.0", "../my images 1.0/"):
        assert dataset_name(dataset) == "my-images-1.0"
        assert network_of(None, dataset) == ("simple_batch", "simple_batch")
    np.save("x_train.npy", X)
    assert dataset_name(".") == "my-images-1.0"
    assert network_of(None, ".") == ("small_mlp", "small_mlp")
    (tmp_path / "cat, dog").mkdir()
    (found,) = pairs_of(str(tmp_path / "cat, dog"), None)
    assert found.dataset_name == "cat-dog"
    assert pairs_of(f"hf:{tmp_path / 'cat, dog'}", None)[0].dataset_name == "cat-dog"
    names = [
        each.dataset_name for each in pairs_of(f"digits,{tmp_path / 'my images 1.0'},hf:a/b", None)
    ]
    assert names == ["digits", "my-images-1.0", "a-b"]


def test_unknown_names_are_told_what_is_valid():
    with pytest.raises(ValueError, match=r"unknown dataset 'book.pdf'.*\.txt"):
        dataset_name("book.pdf")
    with pytest.raises(ValueError, match=r"unknown model 'resnet'.*resnet_20.*FILE.py:FUNCTION"):
        network_of("resnet", "digits")
