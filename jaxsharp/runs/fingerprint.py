"""What a run was made from, as digests that every checkpoint of it carries.

A name says which data set, network and optimizer were asked for, a fingerprint which they were.
Data is known by its content, programs by how JAX traces them. Another version of JAX, or another
kind of device, may trace the same network otherwise: then a difference is said and not refused.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxsharp.core.choices import checked, construct, shown
from jaxsharp.runs import checkpoint, files
from jaxsharp.runs.claims import ELSEWHERE, RunError, warn_once

FILE = "fingerprint.json"
DATA = ("train_images", "train_labels", "test_images", "test_labels")
PROGRAMS = ("network", "optimizer")
DIGITS = 8  # of a digest in a message


@dataclass(frozen=True)
class Fingerprint:
    """Digests (`core.fingerprints`) of data and programs, and what traced the latter."""

    train_images: str
    train_labels: str
    test_images: str
    test_labels: str
    network: str
    optimizer: str
    jax: str
    platform: str

    def check(self) -> None:
        """Raise ValueError for what is no digest, version or platform."""
        for name, value in asdict(self).items():
            valid = r"[0-9a-f]{32}" if name in (*DATA, *PROGRAMS) else r"[\w.+-]{1,100}"
            if not re.fullmatch(valid, value, re.ASCII):
                raise ValueError(f"{name} is {shown(value)}; it must match {valid}")

    @property
    def text(self) -> str:
        """The content of its file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read(saved: Path, advice: str = ELSEWHERE) -> Fingerprint:
    """The fingerprint of a checkpoint.

    Raises DamagedError if it is not as it was written, and RunError, which ends with the
    ``advice``, if it never was.
    """
    if not (saved / FILE).exists() and checkpoint.verify(saved) is None:
        raise RunError(
            f"checkpoint {saved} has no {FILE}, so that what it was made from is not known; "
            f"{advice}"
        )
    checkpoint.read_text(saved, FILE)
    try:
        return checked(construct(Fingerprint, files.read_json(saved / FILE)))
    except ValueError as error:
        raise RunError(f"{saved / FILE}: {error}") from None


def compare(
    saved: Path,
    found: Fingerprint,
    wanted: Fingerprint,
    names: Iterable[str] = (*DATA, *PROGRAMS),
    *,
    advice: str = ELSEWHERE,
) -> None:
    """Raise RunError unless a checkpoint was made from what is wanted now, saying what changed.

    Where another version of JAX or another platform traced it, a difference between programs alone
    says nothing: then it is a warning, once.
    """
    changed = [name for name in names if getattr(found, name) != getattr(wanted, name)]
    traced = [f"jax {each.jax} on {each.platform}" for each in (found, wanted)]
    data = [name for name in changed if name in DATA]
    if changed and not data and traced[0] != traced[1]:
        warn_once(
            f"{' and '.join(changed)}: traced by {traced[0]}, now by {traced[1]}; "
            "whether it is the same cannot be told"
        )
    elif changed:
        digests = ", ".join(
            f"{name.replace('_', ' ')} {getattr(found, name)[:DIGITS]} -> "
            f"{getattr(wanted, name)[:DIGITS]}"
            for name in changed
        )
        what = " and ".join(["other data"] * bool(data) + ["another program"] * (data != changed))
        raise RunError(
            f"checkpoint {saved} was made from {what} under the same name ({digests}); {advice}"
        )
