"""Several studies in one folder, a data set and a network each, and their tables as one.

OUT/DATASET-MODEL     the study of a data set and a network
OUT/runs.csv          the rows of all of them, with the columns dataset and model
OUT/checkpoints.csv   the same of those that have one
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from jaxsharp.runs import claims, files
from jaxsharp.runs.claims import RunError
from jaxsharp.studies.grid import StudyConfig, listed

TABLES = ("runs.csv", "checkpoints.csv")


def folder_name(config: StudyConfig) -> str:
    """What the folder of a study is called among others."""
    return f"{config.dataset}-{config.model}"


def name_of(configs: Sequence[StudyConfig]) -> str:
    """What the folder of several studies is called: what they hold, and a digest of all."""
    digest = hashlib.sha256(" ".join(config.name for config in configs).encode()).hexdigest()
    data = listed(list(dict.fromkeys(config.dataset for config in configs)), "datasets")
    models = listed(list(dict.fromkeys(config.model for config in configs)), "models")
    first = configs[0]
    rest = first.name.removeprefix(f"{folder_name(first)}-").rpartition("-")[0]
    return f"{data}-{models}-{rest}-{digest[:6]}"


def check_folder(out: Path, configs: Iterable[StudyConfig]) -> None:
    """Raise RunError unless ``out`` can hold these studies and their joined tables."""
    names = [folder_name(config) for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"two studies would be in the folder {twice[0]}; give each pair once")
    claims.check_outside(out)
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; the output must be a directory")
    if (out / "config.json").exists():
        raise RunError(f"{out} is not a folder of several studies; choose another directory")
    for name in TABLES:
        if (out / name).exists() and not studies_in(out):
            raise RunError(f"{out / name} is of no studies there; choose another directory")


def studies_in(folder: Path) -> list[Path]:
    """The studies right in a folder that are called after their data sets and networks."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return []
    found = []
    for path in sorted(folder.glob("[!.]*-*")):
        if not path.is_symlink() and claims.kind(path) == "study":
            config = claims.parse_config(path / "config.json")
            found += [path] * (path.name == f"{config['dataset']}-{config['model']}")
    return found


def write_joined(folder: Path) -> list[str]:
    """Write the tables of the studies in a folder as one each; the names of those there are.

    Raises ForeignError for a link in the place of a table.
    """
    written = []
    for name in TABLES:
        there = [path / name for path in studies_in(folder) if (path / name).exists()]
        texts = [io.BytesIO(files.read_bytes(file)) for file in there]
        # Cells as they are written, so that no number changes.
        tables = [pd.read_csv(text, dtype=str, keep_default_na=False) for text in texts]
        if tables:
            files.write_table(folder / name, pd.concat(tables, ignore_index=True))
            written.append(name)
    return written


def parts_by_study(parts: Sequence[Path]) -> dict[str, list[Path]]:
    """The parts of each study by the name of its folder, "" where parts are studies themselves.

    Raises RunError for parts that hold different studies.
    """
    held = {part: [path.name for path in studies_in(part)] for part in parts}
    if not any(held.values()):
        return {"": list(parts)}
    (first, names), *others = held.items()
    for part, found in others:
        if different := sorted(set(names) ^ set(found)):
            have, lacks = (first, part) if different[0] in names else (part, first)
            raise RunError(f"{have} has the study {different[0]}, and {lacks} has not")
    return {name: [part / name for part in parts] for name in names}
