"""A stand-in for what jaxsharp uses of Hugging Face's package datasets, where that is not there.

`tests/data/test_huggingface.py` holds it to the real one, where that is installed.
"""

import types
from pathlib import Path

import numpy as np


class Image:
    """A column of images."""


class Value:
    """A column of numbers or texts."""

    def __init__(self, dtype):
        self.dtype = dtype


class ClassLabel:
    """A column of classes."""

    dtype = "int64"

    def __init__(self, *, names):
        self.names, self.num_classes = names, len(names)


class Dataset:
    """A table, in memory."""

    def __init__(self, columns, features, numpy=None):
        self.columns, self.features, self.numpy = columns, features, numpy
        self.format = {"type": None, "columns": list(features), "output_all_columns": False}

    @classmethod
    def from_dict(cls, columns, features=None):
        return cls(columns, features or {name: kind_of(each) for name, each in columns.items()})

    def __len__(self):
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, where):
        found = {name: each[where] for name, each in self.columns.items()}
        if self.numpy is None:
            return found
        return {name: as_numpy(each, **self.numpy) for name, each in found.items()}

    def select_columns(self, names):
        return Dataset({name: self.columns[name] for name in names}, self.features)

    def with_format(self, kind, columns=None, **numpy):
        columns = list(self.columns) if columns is None else columns
        made = Dataset(self.columns, self.features, None if kind is None else numpy)
        made.columns = {name: self.columns[name] for name in columns}
        made.format = {"type": kind, "columns": columns, "output_all_columns": False}
        return made

    def set_transform(self, transform):
        self.format = {**self.format, "type": "custom"}


def kind_of(values):
    """What the package takes a list of numbers for, as far as it matters here."""
    is_float = any(isinstance(each, float) for each in np.ravel(np.array(values, object)))
    return Value("float64" if is_float else None)


def as_numpy(values, dtype=np.float32):
    """An array in the types of the package: int64, float32 with NaN for None, objects if ragged."""
    if len({len(each) for each in values if isinstance(each, list)}) > 1:
        return np.array([np.array(each) for each in values], object)
    found = np.array([np.nan if each is None else each for each in values])
    kinds = {"f": dtype, "i": np.int64, "u": np.int64}
    return found.astype(kinds.get(found.dtype.kind, found.dtype))


class DatasetDict(dict):
    """Tables by the names of their parts."""

    def save_to_disk(self, path):
        Path(path).mkdir()
        ON_DISK[str(path)] = self


ON_DISK, CACHE = {}, {}


def load_from_disk(path):
    if path not in ON_DISK:
        raise FileNotFoundError(f"Directory {path} is neither\na `Dataset` nor a `DatasetDict`.")
    return ON_DISK[path]


def load_dataset(path, name=None, *, cache_dir=None):
    assert standin.config.HF_HUB_OFFLINE, "it would be downloaded"
    if (path, name, cache_dir) not in CACHE:
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub\n(OfflineModeIsEnabled)")
    return CACHE[path, name, cache_dir]


standin = types.ModuleType("datasets")
standin.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
standin.Features = dict
for each in (Image, Value, ClassLabel, Dataset, DatasetDict, load_from_disk, load_dataset):
    setattr(standin, each.__name__, each)
