"""Data sets that tensorflow-datasets has prepared as array_record; reading needs no TensorFlow.

Such a directory holds records of plain values and PNG files, nothing that is unpickled.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxsharp.core.choices import shown
from jaxsharp.data.arrays import from_arrays
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError, Shape, Split, checked, user_directory
from jaxsharp.data.sources.columns import chosen, joined, parts_of


def prepared_roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Where copies may be: the user's directory; unless it is an argument, the usual one too."""
    default = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    places = (user_directory(data_dir), default if data_dir is None else None)
    return [place for place in places if place]


def prepared_directory(data_dir: Path, name: str) -> Path | None:
    """The newest version of a data set that tensorflow-datasets prepared as array_record, or None.

    Looks at file names under `data_dir` alone: neither imports tensorflow-datasets nor makes it
    prepare or download anything. `name` is that of a data set, or NAME/CONFIG.
    """
    files = f"{name.partition('/')[0]}-train.array_record*"
    versions = {
        tuple(int(part) for part in path.parent.name.split(".")): path.parent
        for path in (data_dir / name).glob("*.*.*/features.json")
        if path.parent.name.replace(".", "").isdecimal() and any(path.parent.glob(files))
    }
    return versions[max(versions)] if versions else None


def builder_of(directory: Path) -> Any:
    """The builder of a directory, made from it alone, so that nothing can be downloaded."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{directory}: reading it needs tensorflow-datasets ({error}); "
            "pip install tensorflow-datasets array-record"
        ) from error
    return tfds.builder_from_directory(directory)


def examples_of(builder: Any, directory: Path, split: str) -> list[dict[str, Any]]:
    """All examples of one split.

    The order is that of the records, which tensorflow-datasets shuffles once when it prepares them.
    """
    if split not in builder.info.splits:
        raise DataError(
            f"{directory}: expected a split {split}, found {', '.join(builder.info.splits)}"
        )
    source = builder.as_data_source(split=split)
    try:
        return source.__getitems__(range(len(source)))
    except Exception as error:  # array_record, protobuf and PIL each have their own
        found = " ".join(str(error).split())
        raise DataError(
            f"{directory}: expected {len(source)} readable {split} examples, found damage ({found})"
        ) from error


def read_prepared(directory: Path, split: str, shape: Shape, num_classes: int) -> Split:
    """One split of a prepared directory: the official examples, in another order."""
    examples = examples_of(builder_of(directory), directory, split)
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples])
    return checked(images, labels, directory, shape, num_classes)


def from_prepared(
    prepared: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    targets: str | None = None,
    holdout: int = 0,
    **asked: Any,
) -> Dataset:
    """The data set NAME or NAME/CONFIG, of any numbers and images, as `from_arrays` keeps them.

    Inputs and targets are those of the data set's own supervised pair, where it has one and
    ``targets`` does not name another column; else as in `from_huggingface`.
    """
    places = prepared_roots(data_dir)
    found = [path for root in places if (path := prepared_directory(root, prepared))]
    if not found:
        raise DataError(how_to_prepare(prepared, places))
    builder = builder_of(found[0])
    from tensorflow_datasets import features as kinds

    features, pair = builder.info.features, builder.info.supervised_keys
    classes = [each for each, kind in features.items() if isinstance(kind, kinds.ClassLabel)]
    images = [each for each, kind in features.items() if isinstance(kind, kinds.Image)]
    if targets is None and pair and all(isinstance(each, str) for each in pair):
        inputs, target = [pair[0]], pair[1]
    else:
        # Features come in the order of a hash.
        inputs, target = chosen(sorted(features), images, classes, targets)
    parts = parts_of({each: each for each in builder.info.splits}, holdout)
    examples = {part: examples_of(builder, found[0], each) for part, each in parts.items()}

    def column(part: str, name: str) -> np.ndarray:
        try:
            values = np.stack([example[name] for example in examples[part]])
        except ValueError as error:
            raise DataError(f"{part} {name!a} cannot be an array: {error}") from None
        if name in images and values.dtype != np.uint8:
            raise DataError(f"{part} {name!a} holds {values.dtype}; images must be uint8")
        return values

    return from_arrays(
        **{
            part: (joined({each: column(part, each) for each in inputs}), column(part, target))
            for part in parts
        },
        num_classes=features[target].num_classes if target in classes else None,
        source=f"{found[0]} (tensorflow-datasets)",
        holdout=holdout,
        **asked,
    )


def how_to_prepare(prepared: str, places: list[Path]) -> str:
    """The message for a data set of which there is no copy."""
    copies = [root / prepared for root in places]
    message = (
        f"is in none of {', '.join(map(str, copies))}; prepare it with "
        f"tensorflow-datasets: pip install 'jaxsharp[tfds]' && tfds build {prepared} "
        "--file_format=array_record"
    )
    configs = {
        file.parents[1].name for copy in copies for file in copy.glob("*/*.*.*/features.json")
    }
    if configs:
        message += f"; there are the configurations {shown(sorted(configs))}"
    if any(any(copy.glob("*.*.*/dataset_info.json")) for copy in copies):
        message += "; the copy that is there is not in the format array_record"
    return message
