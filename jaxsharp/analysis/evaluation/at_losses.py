"""The evaluation at equal training losses: each run at the first epoch below one of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from jaxsharp.analysis.evaluation.evaluating import Evaluation, evaluate
from jaxsharp.analysis.evaluation.samples import numbered
from jaxsharp.analysis.evaluation.texts import markdown
from jaxsharp.analysis.statistics import flags
from jaxsharp.core.choices import counted

FIRST_BELOW = "first_below_"
"""What the columns begin with that say at which rows a run came below a loss."""


class AtLoss(NamedTuple):
    """What the runs say at a training loss; `found` is None, and `reason` says why, if nothing.

    `title` says which loss, and how many of all runs came below it.
    """

    loss: str
    title: str
    found: Evaluation | None
    reason: str = ""


def losses_of(table: pd.DataFrame) -> list[str]:
    """The losses of a table of checkpoints, in the order of its columns."""
    named = [str(name) for name in table if str(name).startswith(FIRST_BELOW)]
    return [name.removeprefix(FIRST_BELOW) for name in named]


def evaluate_at_losses(
    table: pd.DataFrame,
    *,
    measures: Sequence[str],
    target: str,
    hyper: Sequence[str],
    seed: str | None,
    keys: Sequence[str] = (),
    **options: Any,
) -> list[AtLoss]:
    """Return the `evaluate` of the rows of each loss, of a table with a row a run and checkpoint.

    A column first_below_L is true at the first checkpoint of a run whose training loss is below L.
    The sharpness of the cross-entropy vanishes with the loss, so that runs at the ends of their
    training differ in it as their losses do; here they are compared at about the same one. Runs
    that never came below L are no part of it, and those that did count whether or not they
    converged later. `options` are those of `evaluate`, but for converged. The titles count runs
    that differ in hyper-parameters, seed, or one of `keys`.
    """
    keys = dict.fromkeys([*hyper, *([] if seed is None else [seed]), *keys])
    runs = int(numbered(table, list(keys)).max()) + 1 if seed is not None else None
    every = []
    for loss in losses_of(table):
        here = table[flags(table, FIRST_BELOW + loss, missing=False)].reset_index(drop=True)
        whole = "" if runs is None else f" of {counted(runs, 'run')}"
        title = f"Training loss below {loss}: {len(here)}{whole or ' runs'}"
        if not len(here):
            every.append(AtLoss(loss, title, None, "no run came below it"))
            continue
        try:
            found = evaluate(
                *(here,),
                measures=[name for name in measures if name in here and here[name].notna().any()],
                target=target,
                hyper=hyper,
                seed=seed,
                converged=None,
                **options,
            )
        except ValueError as reason:
            every.append(AtLoss(loss, title, None, str(reason)))
            continue
        kept = [note for note in found.notes if not note.startswith("Nothing says")]
        note = f"{title}, each at the first epoch after which it was"
        every.append(AtLoss(loss, title, found._replace(notes=(note, *kept))))
    return every


def table_at_losses(every: Sequence[AtLoss]) -> pd.DataFrame:
    """The tables one below the other, the loss in the column first_below."""
    tables = [each.found.table.assign(first_below=each.loss) for each in every if each.found]
    if not tables:
        return pd.DataFrame(columns=["first_below", "measure"])
    joined = pd.concat(tables, ignore_index=True)
    return joined[["first_below", *(name for name in joined if name != "first_below")]]


def markdown_at_losses(every: Sequence[AtLoss]) -> str:
    """The evaluations as one page."""
    parts = ["# At equal training losses\n"]
    for each in every:
        if each.found is None:
            parts.append(f"## {each.title}\n\nNo evaluation: {each.reason}\n")
        else:
            parts.append(f"## {each.title}\n\n{markdown(each.found).partition(chr(10) * 2)[2]}")
    return "\n".join(parts)


def headlines(every: Sequence[AtLoss]) -> Mapping[str, str]:
    """A sentence for each loss."""
    return {
        each.title: f"no evaluation, {each.reason}" if each.found is None else each.found.headline
        for each in every
    }
