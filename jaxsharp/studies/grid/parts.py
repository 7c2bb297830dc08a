"""The parts of a grid: runs that one program trains, and shards."""

import re

from jaxsharp.core.choices import shown
from jaxsharp.runs.config import RunConfig


def group_key(member: RunConfig) -> tuple:
    """What the runs of one program have in common: code and shapes, no numbers."""
    settings = member.settings
    given = (
        *(settings.learning_rate, settings.momentum),
        *(settings.weight_decay, settings.decoupled_weight_decay),
    )
    return (
        *(member.optimizer, member.sam, settings.batch_size, settings.average),
        tuple(value is not None for value in given),
    )


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"; ValueError if they are no part of a whole."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard is {shown(text)}; it must be i/n with i from 1 to n, as in 1/4")
    return int(found[1]), int(found[2])
