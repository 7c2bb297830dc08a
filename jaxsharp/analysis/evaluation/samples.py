"""The usable runs of one measure as arrays; pairs that differ in one setting; covariates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from jaxsharp.analysis.coefficients import Runs
from jaxsharp.analysis.statistics import targets


class Sample(NamedTuple):
    """Runs that have a value of a measure and of the target.

    `runs` has both columns, configurations and seeds; `loss` is the training loss, None where the
    table has none. `settings` has a number for each value of each hyper-parameter, a row a
    hyper-parameter, and `others` one for each combination of all the other ones. `hyper` has the
    values of the hyper-parameters themselves.
    """

    runs: Runs
    loss: Float[np.ndarray, " n"] | None
    settings: Int[np.ndarray, "h n"]
    others: Int[np.ndarray, "h n"]
    hyper: pd.DataFrame

    def pairs(self, i: int) -> Bool[np.ndarray, "n n"]:
        """Which pairs of runs differ in the i-th hyper-parameter and in no other."""
        value, rest = self.settings[i], self.others[i]
        return (value[:, None] != value[None, :]) & (rest[:, None] == rest[None, :])


def sample(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    error: str | None,
    loss: str | None,
    hyper: Sequence[str],
    seed: str | None,
) -> Sample:
    """The columns of runs that are all usable; a standard error that is missing counts as 0."""
    column = lambda name: table[name].to_numpy(dtype=np.float64)  # noqa: E731
    settings = [numbered(table, [name]) for name in hyper]
    others = [numbered(table, [n for n in hyper if n != name]) for name in hyper]
    shape = (len(hyper), len(table))
    return Sample(
        Runs(
            *(column(x), targets(table, y), numbered(table, hyper)),
            None if seed is None else numbered(table, [seed]),
            None if error is None else np.nan_to_num(column(error)),
        ),
        None if loss is None else column(loss),
        np.reshape(np.asarray(settings, dtype=np.int64), shape),
        np.reshape(np.asarray(others, dtype=np.int64), shape),
        table[list(hyper)],
    )


def numbered(table: pd.DataFrame, names: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Numbers that are equal where all columns of `names` are, NaN included; 0 without a name."""
    code = np.zeros(len(table), dtype=np.int64)
    for name in names:
        found, _ = pd.factorize(table[name], use_na_sentinel=False)
        code = np.unique(code * (found.max(initial=0) + 1) + found, return_inverse=True)[1]
    return code


def covariates(hyper: pd.DataFrame) -> list[pd.Series]:
    """The order of each hyper-parameter that is a number and differs between runs, from 1.

    The infinite ones are the first and the last, and NaN stays.
    """
    columns = [hyper[name] for name in hyper if is_number(hyper[name])]
    return [column.rank(method="dense") for column in columns if column.nunique(dropna=False) > 1]


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers, and no truth values or texts."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
