"""What an evaluation is asked for, checked: columns, what they are, and the controls."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxsharp.analysis import statistics
from jaxsharp.analysis.evaluation.samples import is_number, numbered
from jaxsharp.analysis.hypotheses import Hypothesis, parse_hypotheses
from jaxsharp.core.choices import known, shown

RANDOM = "random number"
NUM_PARAMS = "num_params"
STANDARD = "standard error"


class Roles(NamedTuple):
    """Names of columns, as `evaluating.evaluate` takes them."""

    measures: tuple[str, ...]
    target: str
    hyper: tuple[str, ...]
    seed: str | None
    converged: str | None
    diverged: str | None
    loss: str | None
    controls: tuple[str, ...]

    @property
    def named(self) -> list[str]:
        """All columns that must be there."""
        single = (self.seed, self.converged, self.diverged, self.loss)
        every = [*self.measures, self.target, *self.hyper, *self.controls, *single]
        return [name for name in every if name is not None]


class Plan(NamedTuple):
    """A table ready to be evaluated.

    It has the columns `converged` and `diverged`, and every control is a column. `hyper` vary,
    `constant` do not; `errors` has the column of standard errors of a measure. `judged`: something
    says which runs converged; `unconverged` of those that enter did not. `expected` has the sign
    that each hypothesis on the target expects of a measure that is evaluated, `elsewhere` are the
    other hypotheses.
    """

    table: pd.DataFrame
    measures: tuple[str, ...]
    target: str
    hyper: tuple[str, ...]
    constant: tuple[str, ...]
    seed: str | None
    loss: str | None
    controls: tuple[str, ...]
    errors: dict[str, str]
    judged: bool
    unconverged: int
    expected: dict[str, str]
    elsewhere: tuple[Hypothesis, ...]


def planned(
    table: pd.DataFrame,
    roles: Roles,
    unconverged: bool,
    draw: int,
    hypotheses: str | Sequence[str] = (),
) -> Plan:
    """The plan of an evaluation; ValueError for what cannot be evaluated."""
    _check(table, roles)
    stated = ()
    if hypotheses != ():
        stated = parse_hypotheses(hypotheses, *([str(c) for c in table.columns],) * 2)
    here = [h for h in stated if h.target == roles.target and h.measure in roles.measures]
    columns = dict.fromkeys((*roles.measures, roles.target, *roles.controls, roles.loss))
    columns.pop(None, None)
    values = {name: numbers(table, name) for name in columns}
    errors = {name: found for name in roles.measures if (found := _error_column(table, name))}
    values |= {found: _standard_errors(table, found) for found in errors.values()}
    truths = {
        name: statistics.flags(table, name, missing=False)
        for name in (roles.converged, roles.diverged)
        if name is not None
    }
    converged = None if roles.converged is None else table[roles.converged]
    judged = converged is not None and bool(converged.notna().any())
    entering = ~truths.get(roles.diverged, np.zeros(len(table), dtype=bool))
    flags = {
        "converged": None if unconverged else converged,
        "diverged": False if roles.diverged is None else table[roles.diverged],
    }
    varied = tuple(h for h in roles.hyper if table[h].nunique(dropna=False) > 1)
    controls = {name: column for h in varied for name, column in _columns_of(table[h]).items()}
    if roles.loss is not None:
        controls[roles.loss] = values[roles.loss]
    if NUM_PARAMS in table:
        controls[NUM_PARAMS] = numbers(table, NUM_PARAMS)
    controls |= {name: values[name] for name in roles.controls}
    controls[RANDOM] = np.random.default_rng([draw, len(table)]).normal(size=len(table))
    return Plan(
        statistics.with_columns(table, {**controls, **values, **flags}),
        *(roles.measures, roles.target, varied),
        tuple(h for h in roles.hyper if h not in varied),
        *(roles.seed, roles.loss),
        tuple(name for name in controls if name not in (*roles.measures, roles.target)),
        errors,
        judged=judged,
        unconverged=int((entering & (converged == 0)).sum()) if unconverged and judged else 0,
        expected={h.measure: h.sign for h in here},
        elsewhere=tuple(h for h in stated if h not in here),
    )


def _check(table: pd.DataFrame, roles: Roles) -> None:
    """Raise ValueError unless the table has the columns, and each has one role."""
    if not len(table):
        raise ValueError("the table has no rows; it must have one a run")
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"column {shown(twice[0])} is in the table twice; name one otherwise")
    for kind, given in (("measures", roles.measures), ("hyper", roles.hyper)):
        if not given:
            raise ValueError(f"{kind} is empty; name one or more columns of the table")
        if len(set(given)) < len(given):
            raise ValueError(f"{kind} are {shown(given)}; each must be there once")
    for name in roles.named:
        known("column", name, [str(column) for column in table.columns])
    roles_of: dict[str, str] = {}
    for names, role in (
        *((roles.measures, "a measure"), ((roles.target,), "the target")),
        *((roles.hyper, "a hyper-parameter"), ((roles.seed,), "the seed")),
    ):
        for name in names:
            if name is not None and name in roles_of:
                raise ValueError(f"column {shown(name)} is {roles_of[name]} and {role}; name one")
            roles_of[name] = role
    if roles.seed is not None:
        _check_once(table, roles)


def _check_once(table: pd.DataFrame, roles: Roles) -> None:
    """Raise ValueError for a run that is there twice: equal in all columns that are named."""
    number = numbered(table, list(dict.fromkeys(roles.named)))
    _, first, place = np.unique(number, return_index=True, return_inverse=True)
    ended = table[roles.target].notna().to_numpy()  # of diverged runs nothing tells two apart
    again = np.flatnonzero((first[place] != np.arange(len(table))) & ended)
    if len(again):
        raise ValueError(
            f"row {again[0] + 1} is row {first[place[again[0]]] + 1} once more, as "
            f"{len(again)} of {len(table)} rows are others; each run must be there once"
        )


def numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers; ValueError for one with anything else, or without a finite value."""
    found = as_numbers(table, name)
    if not np.isfinite(found).any():
        raise ValueError(f"column {name!r} has no finite value; leave it out")
    return found


def as_numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """A column in float64, NaN where it is empty; ValueError for one with anything else."""
    column = table[name]
    found = pd.to_numeric(column, errors="coerce")
    wrong = column[found.isna() & column.notna()]
    if len(wrong) or not pd.api.types.is_numeric_dtype(found):
        value = wrong.iloc[0] if len(wrong) else column.iloc[0]
        raise ValueError(f"column {name!r} holds {shown(value)}; it must hold numbers")
    return found.astype(np.float64)


def _error_column(table: pd.DataFrame, name: str) -> str | None:
    """The column of the standard errors of a measure, None if there is none."""
    error, kind, exact = (f"{name}_{part}" for part in ("error", "error_kind", "exact"))
    if error not in table or (exact in table and table[exact].eq(True).all()):
        return None
    kinds = table[kind].dropna() if kind in table else ()
    if not all(isinstance(each, str) and each.startswith(STANDARD) for each in kinds):
        return None
    return error


def _standard_errors(table: pd.DataFrame, name: str) -> pd.Series:
    """Standard errors; ValueError for what is none."""
    found = as_numbers(table, name)
    if (found < 0).any():
        raise ValueError(
            f"column {name!r} holds {shown(float(found.min()))}; errors are at least 0"
        )
    return found


def _columns_of(hyper: pd.Series) -> dict[str, pd.Series]:
    """A hyper-parameter as controls: itself, or of texts one column a value, 1 where it has it."""
    if is_number(hyper):
        return {str(hyper.name): hyper}
    values = hyper.dropna().unique()
    values = values[1:] if len(values) == 2 and hyper.notna().all() else values
    return {f"{hyper.name}={value}": (hyper == value).astype(np.float64) for value in values}
