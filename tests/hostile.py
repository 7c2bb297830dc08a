"""Folders of a study as somebody else may have made them: every checksum right, and nothing else.

Each entry of `FOLDERS` changes a part of a study, `change(part, victim)`. ``victim`` is a folder
outside of it, which no command has any business with.
"""

import io
import json
import os
import pickle
import shutil
import socket
import zipfile

import numpy as np

from jaxsharp.runs import checkpoint, claims, columns, directory, files

MEASURE = "top_eigenvalue"
LONG = "sgd" * 40_000
CYRILLIC = "\u0455gd"  # a small letter dze for the s
DEEP = "[" * 100_000 + "]" * 100_000


def run_of(part):
    """The directory of the part's run."""
    (run,) = (part / "runs").iterdir()
    return run


def saved_in(part):
    """The only checkpoint of the part's run."""
    (saved,) = directory.checkpoints(run_of(part))
    return saved


def seal(saved):
    """Make the sums of a checkpoint right, whatever its files are."""
    names = sorted(path.name for path in saved.iterdir() if path.name != checkpoint.SUMS)
    sums = [f"{files.digest(saved / name)}  {name}\n" for name in names]
    (saved / checkpoint.SUMS).write_text("".join(sums))


def with_config(change, where=lambda part: part):
    """Change a configuration and make its checksum right again."""

    def apply(part, victim):
        folder = where(part)
        config = claims.read_config(folder)
        change(config, victim)
        text = json.dumps({**config, "checksum": claims.checksum(config)})
        (folder / "config.json").write_text(text)

    return apply


def field(name, value, where=lambda part: part):
    """Give a field, as in settings.epochs, another value; a callable gets the victim's path."""

    def change(config, victim):
        *outer, last = name.split(".")
        for each in outer:
            config = config[each]
        config[last] = value(victim) if callable(value) else value

    return with_config(change, where)


def written(name, content):
    """Give a file of the run or the part another content."""

    def apply(part, victim):
        file = name(part)
        if not isinstance(content, bytes):
            file.write_text(content)
        else:
            file.write_bytes(content)

    return apply


def linked(name, target, link=os.symlink):
    """Put a link in the place of a file or folder, or where none is."""

    def apply(part, victim):
        place = name(part)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        link(target(victim, place), place)

    return apply


def in_checkpoint(name, content):
    """Give a file of the checkpoint another content, with the right sums."""

    def apply(part, victim):
        (saved_in(part) / name).write_bytes(content)
        seal(saved_in(part))

    return apply


def sums_with(line):
    """Add a line to the sums of a checkpoint."""

    def apply(part, victim):
        file = saved_in(part) / checkpoint.SUMS
        name = line(victim)
        digest = files.digest(victim / "secret")
        file.write_text(file.read_text() + f"{digest}  {name}\n")

    return apply


def renamed(name):
    """Give the checkpoint another name."""
    return lambda part, victim: saved_in(part).rename(saved_in(part).with_name(name))


def rows(*cells):
    """Write rows, which begin with measure, settings, value and error, with their sums."""
    whole = [[*row, "residual", 1, 12, "Hessian products", 9, 1, 0] for row in cells]

    def apply(part, victim):
        files.write_rows(run_of(part) / "sharpness.csv", tuple(columns.SHARPNESS), whole)

    return apply


def fingerprint_with(name, value):
    """Change a field of the checkpoint's fingerprint."""

    def apply(part, victim):
        file = saved_in(part) / "fingerprint.json"
        found = json.loads(file.read_text())
        found[name] = value
        file.write_text(json.dumps(found))
        seal(saved_in(part))

    return apply


def archive_with(shape, content=b"", descr="<f4", compression=zipfile.ZIP_STORED):
    """Say of every array in the checkpoint that it is another one."""

    def apply(part, victim):
        file = saved_in(part) / checkpoint.ARRAYS
        with np.load(file) as found:
            names = found.files
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name in names:
                header = io.BytesIO()
                described = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(header, described)
                archive.writestr(f"{name}.npy", header.getvalue() + content)
        seal(saved_in(part))

    return apply


def pipe(name):
    """A pipe, which a reader waits at."""

    def apply(part, victim):
        name(part).unlink(missing_ok=True)
        os.mkfifo(name(part))

    return apply


def listener(part, victim):
    """A socket among the files."""
    here = os.getcwd()
    os.chdir(part)  # its path may be longer than a socket's
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    os.chdir(here)


def huge(name):
    """A file of a terabyte that takes no place."""

    def apply(part, victim):
        with open(name(part), "w") as file:
            file.truncate(2**40)

    return apply


def folder_instead(name):
    """A folder in the place of a file."""

    def apply(part, victim):
        name(part).unlink(missing_ok=True)
        name(part).mkdir()
        (name(part) / "inside").write_text("")

    return apply


def other_run(part, victim):
    """The run has the content of another one of the same study."""
    field("seed", 7, run_of)(part, victim)


CODE = pickle.dumps(np.array([print], dtype=object))
EPOCH = ",".join(columns.HISTORY)
study_file = lambda name: lambda part: part / name  # noqa: E731
run_file = lambda name: lambda part: run_of(part) / name  # noqa: E731
figure_file = lambda part: part.parent / ".curves.png.tmp"  # noqa: E731
saved_file = lambda name: lambda part: saved_in(part) / name  # noqa: E731
victims = lambda victim, place: victim  # noqa: E731
secret = lambda victim, place: victim / "secret"  # noqa: E731
relative = lambda victim, place: os.path.relpath(victim, place.parent)  # noqa: E731
dangling = lambda victim, place: victim / "absent"  # noqa: E731
itself = lambda victim, place: place  # noqa: E731
