"""The user's own networks and data as commands name them: FILE.py:FUNCTION, files and places."""

import functools
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxsharp.core.choices import as_plain, known, shown
from jaxsharp.data import datasets, own
from jaxsharp.networks.models import MODELS
from jaxsharp.networks.modules import from_nnx
from jaxsharp.networks.network import Network
from jaxsharp.runs.config import Settings
from jaxsharp.studies.workbench import Workbench, workbench

OWN = re.compile(r"(.+\.py):(\w+)")
DEFAULT_MODEL = {"digits": "small_mlp", ".txt": "gpt"}  # by data set, or end of a file's name


def dataset_name(dataset: str) -> str:
    """What tables call a data set: its name, or that of its place; ValueError for another."""
    if dataset not in datasets.DATASETS and own.is_own(dataset):
        return own.name_of(dataset)
    return known("dataset", dataset, (*datasets.DATASETS, *own.VALID))


def network_of(model: str | None, dataset: str) -> tuple[str, str | Network]:
    """What tables call a network, and the network itself, or its name in `MODELS`.

    Without a model the one that a data set is usually trained with. ValueError for names that are
    unknown, and for files and functions that do not give a network.
    """
    if model is None:
        is_images = dataset in datasets.DATASETS or own.is_images(dataset)
        kind = Path(dataset).suffix.lower() if own.is_file(dataset) else dataset
        model = DEFAULT_MODEL.get(kind, "simple_batch" if is_images else "small_mlp")
    if (found := OWN.fullmatch(model)) is None:
        return model, known("model", model, (*MODELS, "FILE.py:FUNCTION"))
    path, function = Path(found[1]), found[2]
    return f"{as_plain(path.stem)}.{function}", own_network(path, function)


class Pair(NamedTuple):
    """A data set and a network: as the user gave the first, and as tables call both."""

    dataset: str
    dataset_name: str
    model_name: str
    network: str | Network


def pairs_of(dataset: str, model: str | None) -> list[Pair]:
    """Each data set of a text with each network of another, which are separated by commas.

    ValueError for what is unknown or there twice.
    """
    found = []
    for data in separated("dataset", dataset):
        name = dataset_name(data)
        for each in [None] if model is None else separated("model", model):
            found.append(Pair(data, name, *network_of(each, data)))
    return found


def separated(what: str, text: str) -> list[str]:
    """The names in a text, each once; that of a file or folder which is there may have a comma."""
    found = OWN.fullmatch(text)
    if "," not in text or os.path.exists(found[1] if found else text.removeprefix("hf:")):
        return [text]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} is {shown(text)}; {shown(name)} is there twice")
    return names


def benches_of(pairs: list[Pair], settings: Settings, data_dir: Path | None) -> list[Workbench]:
    """Data and network of each pair, each data set loaded once.

    Of several data sets, ``data_dir`` is for those that are read from a directory; where none is,
    it is for all, and refused.
    """
    names = list(dict.fromkeys(pair.dataset for pair in pairs))
    read = [
        name
        for name in names
        if not (datasets.is_embedded(name) if name in datasets.DATASETS else own.is_place(name))
    ]
    sizes = {"train_size": settings.train_size, "holdout": settings.holdout}
    loaded = {
        name: datasets.load(name, data_dir=data_dir if name in read or not read else None, **sizes)
        for name in names
    }
    return [workbench(loaded[pair.dataset], pair.network, settings.loss) for pair in pairs]


def own_network(path: Path, function: str) -> Network:
    """The network that a function of a file makes: of nnx.Rngs a module, of nothing a Network."""
    make = getattr(own_module(path), function, None)
    if not callable(make):
        raise ValueError(f"{path} has no function {function}")
    try:
        # The call of a class of NNX is that of its metaclass, which takes anything.
        told = functools.partial(make.__init__, None) if inspect.isclass(make) else make
        needed = [
            parameter
            for parameter in inspect.signature(told).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if not needed:
            made = make()
        elif len(needed) == 1:
            return from_nnx(given_rngs(make, needed[0]))
        else:
            names = ", ".join(parameter.name for parameter in needed)
            raise ValueError(f"takes {names}; it must take nnx.Rngs alone, or nothing")
    except Exception as error:
        raise ValueError(f"{path}:{function}: {described(error)}") from None
    if not isinstance(made, Network):
        raise ValueError(
            f"{path}:{function} returns {type(made).__name__}; it must return a networks.Network, "
            "or take nnx.Rngs and return an NNX module"
        )
    return made


def given_rngs(make: Callable, parameter: inspect.Parameter) -> Callable:
    """A function of nnx.Rngs, by position, of one that may want it by name."""
    if parameter.kind is parameter.KEYWORD_ONLY:
        return lambda rngs: make(**{parameter.name: rngs})
    return make


def own_module(path: Path):
    """The module of a file, run as Python runs a script beside its neighbours."""
    if not path.is_file():
        raise ValueError(f"{path} is no file; valid is FILE.py:FUNCTION of a file that exists")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {described(error)}") from None
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def described(error: Exception) -> str:
    """An error of the user's own code in one line."""
    text = " ".join(str(error).split())
    if type(error) is ValueError:
        return text
    return f"{type(error).__name__}: {shown(text) if len(text) > 200 else text}"
