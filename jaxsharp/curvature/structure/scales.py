"""The rescalings that a program's constraints leave, and which statistics and constants they move.

Columns of the constraints are log scales: of the parameters, then of the statistics, then of the
constants that the network closes over.

A statistic or constant c *moves* if it scales as a mean of activations would: if the constraints
make its log scale a sum of parameters' with coefficients >= 0 (found by a linear program; other
statistics and constants held fixed), and it multiplies nothing that depends on the data alone.
Others, such as masks and what normalizes the input, are no part of a rescaling.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float


class Rescalings(NamedTuple):
    """Exponents of the parameters and of the statistics that they move.

    ``missed``: the constants without which there would be more.
    """

    exponents: Float[np.ndarray, "J K"]
    statistics: Float[np.ndarray, "M K"]
    missed: list[int]


def rescalings(
    constraints: list[np.ndarray],
    logits: list[np.ndarray],
    held: set[int],
    num_params: int,
    num_stats: int,
    num_constants: int,
) -> Rescalings:
    """Rescalings with all constants fixed, and the constants (by number) that this holds back.

    ``held`` are columns of what multiplies the data.
    """
    num_leaves = num_params + num_stats
    columns = [c for c in range(num_params, num_leaves + num_constants) if c not in held]
    moving = {c for c in columns if moves(constraints, num_params, c)}
    unit = np.eye(num_leaves + num_constants)

    def exponents(free):
        """With the statistics that move, and these constants."""
        kept = [*range(num_leaves), *sorted(free)]
        fixed = [unit[c] for c in range(num_params, num_leaves) if c not in moving]
        rows = [row[kept] for row in (*constraints, *logits, *fixed)]
        return solutions(rows, num_params, len(kept))[:num_leaves]

    found = exponents(())
    parts = found[:num_params], found[num_params:]
    constants = {c for c in moving if c >= num_leaves}
    most = exponents(constants).shape[1] if constants else 0
    if most <= found.shape[1]:
        return Rescalings(*parts, [])
    missed = [c for c in sorted(constants) if exponents(constants - {c}).shape[1] < most]
    return Rescalings(*parts, [c - num_leaves for c in missed or sorted(constants)])


def moves(constraints: list[np.ndarray], num_params: int, column: int) -> bool:
    """Whether some sum of constraints says z_c = sum_j a_j z_j over parameters, all a_j >= 0."""
    rows = [row[[*range(num_params), column]] for row in constraints]
    rows = [row for row in rows if row.any()]
    if not any(row[-1] for row in rows):
        return False
    rows = np.unique(rows, axis=0)
    result = scipy.optimize.linprog(
        np.zeros(len(rows)),
        A_ub=-rows[:, :-1].T,
        b_ub=np.zeros(num_params),
        A_eq=rows[:, -1:].T,
        b_eq=[-1.0],
        bounds=(None, None),
    )
    return result.status == 0


def solutions(constraints: list[np.ndarray], num_params: int, num_leaves: int) -> np.ndarray:
    """Basis (num_leaves, K) of the {z: <c, z> = 0 for all c} that move parameters.

    Orthonormal in its first rows, those of the parameters. What is zero to rounding is zero: a
    parameter that no rescaling moves has a row of zeros.
    """
    matrix = np.stack([np.zeros(num_leaves), *constraints])
    null = scipy.linalg.null_space(matrix)
    if not null[:num_params].size:
        return np.zeros((num_leaves, 0))
    mixed, singular, mixing = np.linalg.svd(null[:num_params], full_matrices=False)
    kept = singular > 1e-10
    basis = null @ (mixing[kept].T / singular[kept])
    basis[:num_params] = mixed[:, kept]
    return np.where(np.abs(basis) < 1e-12, 0, basis)
