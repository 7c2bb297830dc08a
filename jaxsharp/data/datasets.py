"""Image data sets as uint8 arrays: from files, from tensorflow-datasets, or embedded.

`load(name)` gives the training and test examples of one of `DATASETS`. Images stay uint8;
normalizing them is the network's job.

The embedded set `digits` is the test part (1,797 images) of "Optical Recognition of Handwritten
Digits", E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository, licensed CC BY 4.0, with
the values unchanged; scikit-learn ships the same images. Its labels repeat one form of about 130
digits fourteen times, so the file is ordered by filled-in form: the test set, the last 360 images,
begins 22 digits into the twelfth form, and holds forms that the training set has not seen but for
that one.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxsharp.data.own import VALID, is_own, load_own
from jaxsharp.data.parts import Dataset, divided, subset
from jaxsharp.data.readers import (
    DataError,
    Shape,
    Split,
    find_file,
    read_cifar,
    read_idx,
    read_npz,
    user_directory,
)
from jaxsharp.data.sources.prepared import prepared_directory, prepared_roots, read_prepared


class DatasetSpec(NamedTuple):
    """What a data set is, and where its files may lie.

    `train_files` and `test_files` are the official names, any of which may be gzipped; `folders`
    are the subfolders of the user's directory in which they are looked for; `system_dir` is where
    the package `system_package` of the operating system puts them. `first_labels`, where given,
    begin the official training labels: two sets whose files have the same names are told apart by
    them. `pickled_files` betray a version made of pickles, which is refused.
    """

    description: str
    shape: Shape
    train_size: int
    test_size: int
    read: Callable[..., Split]
    train_files: tuple[str, ...]
    test_files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    first_labels: tuple[int, ...] = ()
    system_dir: str = ""
    system_package: str = ""
    pickled_files: tuple[str, ...] = ()
    num_classes: int = 10
    max_pixel: int = 255


IDX_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        description="handwritten digits of 8 x 8 pixels, embedded in jaxsharp",
        shape=(8, 8, 1),
        train_size=1437,
        test_size=360,
        read=read_npz,
        train_files=("digits.npz",),
        max_pixel=16,
    ),
    "fashion_mnist": DatasetSpec(
        description="articles of clothing, gray, 28 x 28 pixels",
        shape=(28, 28, 1),
        train_size=60_000,
        test_size=10_000,
        read=read_idx,
        train_files=IDX_TRAIN,
        test_files=IDX_TEST,
        folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
        first_labels=(9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
        system_dir="/usr/share/datasets/fashion-mnist",
        system_package="dataset-fashion-mnist",
    ),
    "mnist": DatasetSpec(
        description="handwritten digits, gray, 28 x 28 pixels",
        shape=(28, 28, 1),
        train_size=60_000,
        test_size=10_000,
        read=read_idx,
        train_files=IDX_TRAIN,
        test_files=IDX_TEST,
        folders=("mnist", "MNIST/raw", "MNIST"),
        first_labels=(5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    ),
    "cifar10": DatasetSpec(
        description="photographs of animals and vehicles, color, 32 x 32 pixels",
        shape=(32, 32, 3),
        train_size=50_000,
        test_size=10_000,
        read=functools.partial(read_cifar, per_file=10_000),
        train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test_files=("test_batch.bin",),
        folders=("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10"),
        pickled_files=("cifar-10-batches-py/data_batch_1", "data_batch_1"),
    ),
}


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train_size: int | None = None,
    holdout: int = 0,
) -> Dataset:
    """The named data set, from the first place that holds it; nothing is ever downloaded.

    Other names are of the user's own: a file that ends in .npz, .csv, .parquet or .txt (`tables`),
    a folder of images (`from_images`) or of .npy files (`tables`), hf:NAME and tfds:NAME (`own`).

    With `data_dir` that directory alone: the official files in it or in a subfolder named after the
    data set, or an array_record copy that tensorflow-datasets has prepared (the same examples in
    another order). Without it, in order: the directory that the environment variable JAXSHARP_DATA
    names; the operating system's package; a prepared copy in TFDS_DATA_DIR or
    ~/tensorflow_datasets. `digits` is embedded, and read from nowhere else.

    With `holdout=n` the test set is the last n training examples, the training set the others, and
    the official test set is not read. `train_size=n` then keeps a stratified part of the training
    set, see `stratified`.

    Raises DataError, with one line that says what would be valid.
    """
    if holdout < 0:
        raise DataError(f"holdout is {holdout}; it must be 0 or a number of training examples")
    if name not in DATASETS and is_own(name):
        return load_own(name, data_dir=data_dir, train_size=train_size, holdout=holdout)
    if name not in DATASETS:
        raise DataError(f"name is {name!r}; it must be one of {', '.join((*DATASETS, *VALID))}")
    spec = DATASETS[name]
    read, source = _reader(name, spec, data_dir)
    train = read("train")
    if holdout == 0:
        test = read("test")
    else:
        total = len(train.labels)
        if holdout >= total:
            raise DataError(
                f"holdout is {holdout}; it must be less than {total} (the number of training "
                f"examples of {name})"
            )
        train, test = divided(train, total - holdout)
    if train_size is not None:
        train = subset(train, train_size, spec.num_classes)
    return Dataset(name, train, test, spec.num_classes, spec.max_pixel, source)


def is_embedded(name: str) -> bool:
    """Whether a data set is part of the package, and read from no directory."""
    return name in DATASETS and DATASETS[name].read is read_npz


def _reader(
    name: str, spec: DatasetSpec, data_dir: str | os.PathLike[str] | None
) -> tuple[Callable[[str], Split], str]:
    """The function that reads the part "train" or "test" from the first place, and that place."""
    if is_embedded(name):
        if data_dir is not None:
            message = (
                f"{name} is embedded in jaxsharp; data_dir is {data_dir}, which it never reads"
            )
            raise DataError(message)
        path = Path(__file__).with_name(spec.train_files[0])
        return functools.partial(_read_embedded, path, spec), f"{path.name}, embedded in jaxsharp"
    user_dir = user_directory(data_dir)
    directories = [user_dir / folder for folder in (*spec.folders, "")] if user_dir else []
    if spec.system_dir and data_dir is None:
        directories.append(Path(spec.system_dir))
    for directory in directories:
        if any(find_file(directory, file) for file in spec.train_files):
            return functools.partial(_read_files, directory, name, spec), str(directory)
    roots = prepared_roots(data_dir)
    for root in roots:
        if found := prepared_directory(root, name):
            read = functools.partial(
                read_prepared, found, shape=spec.shape, num_classes=spec.num_classes
            )
            return read, f"{found} (tensorflow-datasets)"
    raise DataError(_how_to_get(name, spec, directories, roots))


def _read_embedded(path: Path, spec: DatasetSpec, part: str) -> Split:
    train, test = divided(spec.read(path, spec.shape, spec.num_classes), spec.train_size)
    return train if part == "train" else test


def _read_files(directory: Path, name: str, spec: DatasetSpec, part: str) -> Split:
    files, advice = spec.train_files, ""
    if part == "test":
        files = spec.test_files
        advice = ", or evaluate on the last N training examples with --holdout N (holdout=N)"
    paths = [find_file(directory, file) for file in files]
    for file, path in zip(files, paths, strict=True):
        if path is None:
            raise DataError(
                f"{name}: the {part} file {file} is missing in {directory}; add it{advice}"
            )
    split = spec.read(paths, spec.shape, spec.num_classes)
    begins = tuple(split.labels[:10].tolist())
    for other, other_spec in DATASETS.items():
        if other != name and begins == other_spec.first_labels:
            raise DataError(f"{directory}: expected the files of {name}, found those of {other}")
    return split


def _how_to_get(name: str, spec: DatasetSpec, directories: list[Path], roots: list[Path]) -> str:
    """The message for a data set that no place holds: where it was looked for, and what to do."""
    ways = [
        f"put the official files {', '.join((*spec.train_files, *spec.test_files))} (or .gz) in a "
        "directory and pass it as --data-dir (data_dir=) or set JAXSHARP_DATA to it",
        "prepare it with tensorflow-datasets: pip install 'jaxsharp[tfds]' && "
        f"tfds build {name} --file_format=array_record",
    ]
    if spec.system_package:
        ways.insert(1, f"apt-get install {spec.system_package}")
    places = [str(directory) for directory in directories] + [str(root / name) for root in roots]
    message = f"{name} is in none of {', '.join(dict.fromkeys(places))}; do one of: "
    message += "; ".join(f"({i}) {way}" for i, way in enumerate(ways, 1))
    for root in roots:
        if any((root / name).glob("*.*.*/dataset_info.json")):
            message += f"; the copy in {root / name} is not in the format array_record"
    pickled = [d / file for d in directories for file in spec.pickled_files if (d / file).is_file()]
    if pickled:
        message += f"; {pickled[0]} is a pickle and not read, because loading a pickle runs code"
    return message
