"""Data sets by a name of the user's: a file, a folder, or what other packages have.

hf:OWNER/NAME or hf:OWNER/NAME:CONFIG is in the cache of Hugging Face's package datasets, hf:FOLDER
was written by its ``save_to_disk``; tfds:NAME or tfds:NAME/CONFIG was prepared by
tensorflow-datasets. ``#COLUMN`` after any of these names the column of the targets.
"""

import os
import re
from pathlib import Path

from jaxsharp.core.choices import as_plain, shown
from jaxsharp.data.parts import Dataset
from jaxsharp.data.readers import DataError, user_directory
from jaxsharp.data.sources.huggingface import cached, from_huggingface, saved
from jaxsharp.data.sources.images import from_images
from jaxsharp.data.sources.prepared import from_prepared
from jaxsharp.data.sources.tables import SUFFIXES, is_folder, load_file

HUBS = {"hf:": r"(\w[\w.-]*/)?\w[\w.-]*(:[\w.+-]+)?", "tfds:": r"\w+(/[\w.+-]+)?"}
VALID = (*SUFFIXES, "a folder of images or .npy", *(f"{prefix}NAME" for prefix in HUBS))


def is_own(name: str) -> bool:
    """Whether a name, which is none of `DATASETS`, may be that of a data set of the user's."""
    return name.startswith(tuple(HUBS)) or is_file(name) or os.path.isdir(name)


def is_file(name: str) -> bool:
    """Whether a name is that of a file."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(tuple(HUBS))


def is_images(name: str) -> bool:
    """Whether a name is that of a folder of images."""
    is_other = name.startswith(tuple(HUBS)) or is_file(name) or is_folder(Path(name))
    return os.path.isdir(name) and not is_other


def is_place(name: str) -> bool:
    """Whether the name of a data set of the user's is the file or folder that is read."""
    if not name.startswith(tuple(HUBS)):
        return True
    prefix, place, _ = parsed(name)
    return prefix == "hf:" and os.path.isdir(place)


def name_of(name: str) -> str:
    """What tables call a data set: its name without what no folder may be called."""
    if name.startswith(tuple(HUBS)):
        _, place, targets = parsed(name)
        place = Path(place).resolve().name if is_place(name) else place
        return as_plain(f"{place}-{targets}" if targets else place)
    return as_plain(Path(name).stem if is_file(name) else Path(name).resolve().name)


def parsed(name: str) -> tuple[str, str, str | None]:
    """Prefix, name or folder, and column of the targets; DataError for what is no such name."""
    prefix, place = re.fullmatch("(hf:|tfds:)(.*)", name, re.DOTALL).groups()
    place, sign, targets = place.partition("#")
    is_place = re.fullmatch(HUBS[prefix], place, re.ASCII) is not None
    is_place |= prefix == "hf:" and os.path.isdir(place)
    if not is_place or (sign and not targets):
        raise DataError(
            f"dataset is {shown(name)}; valid are hf:OWNER/NAME, hf:OWNER/NAME:CONFIG, hf:FOLDER, "
            "tfds:NAME and tfds:NAME/CONFIG, and #COLUMN behind it for the column of the targets"
        )
    return prefix, place, targets or None


def load_own(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train_size: int | None = None,
    holdout: int = 0,
) -> Dataset:
    """The data set of a name of the user's; DataError in one line that names it.

    ``data_dir`` is the cache of hf:NAME, or where tfds:NAME was prepared.
    """
    sizes = {"train_size": train_size, "holdout": holdout}
    prefix, place, targets = parsed(name) if name.startswith(tuple(HUBS)) else ("", name, None)
    if data_dir is not None and is_place(name):
        raise DataError(f"{name} is a place itself; data_dir is {data_dir}, which it never reads")
    if not prefix:
        return from_images(name, **sizes) if is_images(name) else load_file(Path(name), **sizes)
    asked = {"name": name_of(name), "targets": targets, **sizes}
    try:
        if prefix == "tfds:":
            return from_prepared(place, data_dir, **asked)
        if is_place(name):
            return from_huggingface(saved(place), source=name, **asked)
        path, _, config = place.partition(":")
        found = cached(path, config or None, data_dir and user_directory(data_dir))
        return from_huggingface(found, source=f"{name} (cache of datasets)", **asked)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
