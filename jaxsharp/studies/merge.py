"""Shards of a study, made by several processes or machines, put together as one study."""

import contextlib
import itertools
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from jaxsharp.analysis.hypotheses import written
from jaxsharp.measures.registry import MEASURES
from jaxsharp.runs import checkpoint, claims, directory, files, measurements, reading
from jaxsharp.runs.claims import RunError
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import DATA, PROGRAMS, compare, read
from jaxsharp.runs.growth import is_before
from jaxsharp.studies.grid import StudyConfig, group_key, held, parse_shard, registration
from jaxsharp.studies.grid.registration import Registration
from jaxsharp.studies.status import read_study, unmeasured

SHARED = (*DATA, "network")
ADVICE = "choose another directory (--out)"


class Merge(NamedTuple):
    """The parts of a study, checked: the whole, the folder that each run is in, and the output.

    ``registered`` is what all parts register, the earliest.
    """

    whole: StudyConfig
    sources: dict[RunConfig, Path]
    out: Path
    registered: Registration | None


def merge(parts: list[Path], out: Path) -> StudyConfig:
    """Copy the runs of all shards of a study into ``out``, which becomes the whole study.

    A part is a study folder with `shard` "i/n" in its config.json, or the only part and whole.
    Each run appears in ``out`` at once; one that is there and finished is left, so that a merge
    may be repeated. So it may with parts of more epochs (`runs.growth`): then runs that had not
    ended are replaced, but for what was measured at checkpoints before their ends. The tables are
    for the caller to write.

    Raises RunError before anything is copied, naming the part: for parts of different studies, a
    shard that is missing or there twice, and a run that is missing, unfinished or damaged; and for
    what ``out`` holds in the place of a run and is none of this study. ForeignError for links.
    """
    return copy_all(check_parts(parts, out))


def check_parts(parts: list[Path], out: Path) -> Merge:
    """Check the parts of a study; raises as `merge` does, and changes nothing."""
    if not parts:
        raise RunError("no part is named; merge needs the folders of all shards")
    folders = [path.resolve() for path in (*parts, out)]
    for one, other in itertools.combinations(folders, 2):
        if one == other:
            raise RunError(f"{one} is named twice; all parts and the output must differ")
    for part in folders[:-1]:
        if part in folders[-1].parents or folders[-1] in part.parents:
            raise RunError(f"{part} and {folders[-1]} are one in the other; lay them side by side")
    configs = {part: read_study(part) for part in parts}
    check_shards(configs)
    registered = joint_registration(parts, out)
    sources = {}
    for part, config in configs.items():
        for member in config.shard_members():
            sources[member] = part / "runs" / member.name
            if (reason := shortcoming(sources[member], member, config)) is not None:
                raise RunError(f"{part} cannot be merged: run {member.name} {reason}")
    check_origins(sources)
    check_codes(sources, configs[parts[0]])
    return Merge(replace(configs[parts[0]], shard=None), sources, out, registered)


def copy_all(found: Merge) -> StudyConfig:
    """Copy the runs of checked parts to their places; the whole study."""
    whole, sources, out, registered = found
    claims.keep_study(out, whole.as_dict(), whole.members())
    found = begun(out, whole)
    with claims.claimed(out, found.as_dict(), advice=ADVICE):
        targets = {member: out / "runs" / member.name for member in sources}
        for member, target in targets.items():
            check_place(target, sources[member], member)
        if found != whole:
            claims.write_config(out, whole.as_dict(), registered and registered.entry)
        registration.keep(out, registered)
        for member, target in targets.items():
            directory.train_on(target, member)
        due = [
            member
            for member, target in targets.items()
            if is_free(target) or shortcoming(target, member, whole) is not None
        ]
        for member in due:
            copy(sources[member], targets[member])
    return whole


def begun(folder: Path, config: StudyConfig) -> StudyConfig:
    """The study that a folder has, if it is ``config`` with fewer epochs; else ``config``."""
    found = held(folder, config, ADVICE)
    return found if found.with_epochs(config) == config else config


def is_free(target: Path) -> bool:
    """Whether there is nothing in the place of a run."""
    return not target.exists() or (target.is_dir() and claims.is_empty(target))


def check_place(target: Path, source: Path, member: RunConfig) -> None:
    """Raise RunError if there is something else in the place of a run than that, or its begin."""
    if is_free(target):
        return
    found = claims.read_config(target)
    if not is_before(found, member):
        changes = claims.differences(found, asdict(member))
        raise RunError(f"{target} is of another configuration ({changes}); {ADVICE}")
    if (saved := directory.latest_checkpoint(target)) is not None:
        advice = f"it cannot be merged with {source}; {ADVICE}"
        with contextlib.suppress(checkpoint.DamagedError):
            made_from = read(directory.latest_checkpoint(source), advice)
            compare(saved, read(saved, advice), made_from, advice=advice)


def check_shards(configs: dict[Path, StudyConfig]) -> None:
    """Raise RunError unless the parts are all shards of one study, each once."""
    (first, like), *others = configs.items()
    if like.shard is None and not others:
        return
    for part, config in others:
        whole = (replace(c, shard=None).as_dict() for c in (like, config))
        if changes := claims.differences(*whole):
            raise RunError(f"{part} is of another study than {first} ({changes})")
    seen: dict[int, Path] = {}
    for part, config in configs.items():
        if config.shard is None:
            raise RunError(f"{part} is a whole study, which has nothing to be merged with")
        index, total = parse_shard(config.shard)
        if total != parse_shard(like.shard)[1]:
            raise RunError(f"{part} is shard {config.shard}, but {first} is {like.shard}")
        if index in seen:
            raise RunError(f"{part} is shard {config.shard}, and so is {seen[index]}")
        seen[index] = part
    absent = (f"{i}/{total}" for i in range(1, total + 1) if i not in seen)
    missing = list(itertools.islice(absent, claims.MOST_NAMED))
    if missing:
        raise RunError(f"{', '.join(map(str, configs))}: shard {', '.join(missing)} is missing")


def joint_registration(parts: list[Path], out: Path) -> Registration | None:
    """The earliest registration of parts that register the same; None if they register nothing.

    Raises RunError for parts that differ in it, and for an output that has runs and another one.
    """
    found = {part: registration.read(part) for part in parts}
    (first, like), *others = found.items()
    said = lambda kept: "no hypotheses" if kept is None else written(kept.hypotheses)  # noqa: E731
    for part, kept in others:
        if said(kept) != said(like):
            raise RunError(
                f"{part} registers {said(kept)}, but {first} {said(like)}; they cannot be merged"
            )
        if kept and like and kept.sha256 != like.sha256:
            grids = (each.grid.as_dict() for each in (like, kept))
            raise RunError(
                f"{part} registers another grid than {first} ({claims.differences(*grids)})"
            )
    there = registration.salvaged(out) if registration.is_begun(out) else None
    if there and (like is None or there.sha256 != like.sha256):
        raise RunError(f"{out} registers {said(there)}, but {first} {said(like)}; {ADVICE}")
    every = [kept for kept in (*found.values(), there) if kept is not None]
    return min(every, key=lambda kept: kept.registered, default=None)


def check_origins(sources: dict[RunConfig, Path]) -> None:
    """Raise RunError unless all runs were made from one data set and network, and each group's
    from one optimizer."""
    saved = {member: directory.latest_checkpoint(path) for member, path in sources.items()}
    first: dict[tuple, Path] = {}
    for member, each in saved.items():
        for group, names in (((), SHARED), (group_key(member), PROGRAMS)):
            like = first.setdefault(group, each)
            advice = f"it cannot be merged with {like}"
            found = (read(checkpoint, ADVICE) for checkpoint in (each, like))
            compare(each, *found, names, advice=advice)


def check_codes(sources: dict[RunConfig, Path], config: StudyConfig) -> None:
    """Raise RunError unless each measure of the user's own is one function in all runs."""
    own = [name for name in config.measures if name not in MEASURES]
    first: dict[str, tuple[str, Path]] = {}
    for path in sources.values() if own else ():
        table = measurements.read_sharpness(path, lambda text: None)
        for row in table[table["measure"].isin(own)].itertuples():
            code, like = first.setdefault(row.measure, (row.settings, path))
            if row.settings != code:
                raise RunError(
                    f"{path} has {row.measure} of another function than {like} "
                    f"({row.settings or 'unknown'}, {code or 'unknown'}); measure both with one"
                )


def shortcoming(path: Path, member: RunConfig, config: StudyConfig) -> str | None:
    """What keeps ``path`` from being a finished run of a study, in words; None if nothing does."""
    if not path.is_dir():
        return "is missing"
    if changes := claims.differences(claims.read_config(path), asdict(member)):
        return f"is of another configuration ({changes})"
    latest = directory.latest_checkpoint(path)
    if latest is None:
        return "is not trained"
    if not directory.is_trained(path, member.settings.epochs):
        return f"is not trained to its end ({latest.name})"
    if (reason := reading.damage(latest)) is not None:
        return f"is damaged ({latest.name}: {reason})"
    directory.check_whole(latest)
    missing = unmeasured(path, config)
    return f"is not measured ({', '.join(missing)})" if missing else None


def copy(source: Path, target: Path) -> None:
    """Copy a run, complete or not at all, without what is damaged, unfinished or foreign in it."""
    temporary = target.with_name(files.TEMPORARY + target.name)
    shutil.rmtree(temporary, ignore_errors=True)
    with files.spoken_of(target):
        try:
            copy_files(source, temporary)
            keep_earlier(target, temporary)
            files.sync_tree(temporary)
            if target.exists():  # begun there, and finished in the part
                shutil.rmtree(target)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        files.sync(target.parent)


def keep_earlier(target: Path, copied: Path) -> None:
    """Add to a copied run what was measured, before its end, in the one whose place it takes."""
    old, new = (measurements.read_checkpoint_sharpness(path) for path in (target, copied))
    names = ["checkpoint", "measure", "settings"]
    both = pd.concat([new, old], ignore_index=True).drop_duplicates(names)
    is_there = [(copied / "checkpoints" / name).is_dir() for name in both["checkpoint"]]
    if len(both[is_there]) > len(new):
        measurements.write_measurements(copied / "checkpoint_sharpness.csv", both[is_there])


def copy_files(source: Path, target: Path) -> None:
    """Copy what a run's directory holds; unlike `shutil.copytree`, the first error is raised."""
    target.mkdir(parents=True)
    for each in source.iterdir():
        if each.name.startswith((*files.OWN, "damaged-")) or files.is_foreign(each.name):
            continue
        if each.is_dir():
            copy_files(each, target / each.name)
        else:
            shutil.copy2(each, target / each.name)
