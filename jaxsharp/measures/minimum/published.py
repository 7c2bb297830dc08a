"""The published solver of the scale problem, for comparison with `scales`."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike

from jaxsharp.measures.minimum.scales import ScaleMinimum, check, duality_gap


def ibayashi_minimum(
    traces: ArrayLike | Sequence,
    exponents: ArrayLike | Sequence,
    *,
    learning_rate: float = 1e-3,
    decay: float = 1e-3,
    num_steps: int = 10_000,
) -> ScaleMinimum:
    """What gradient descent with the published settings returns for the minimum over scales.

    Ibayashi, Hamaguchi and Imaizumi (2021), arXiv 2106.12612. Descent from v = 0 on the traces
    divided by their sum, with exponents as in `minimize_over_scales`,

        F(v) = sum_j (t_j / sum t) exp(-2 <a_j, v>),    v <- v - lr / (1 + decay e) F'(v)

    for steps e = 0, 1, ... It is no minimizer: it stops after ``num_steps`` wherever it is. The
    result has the objective there, its duality gap as the ``error``, and is ``attained`` if this
    gap is below 1e-6 of the value. Too large a step diverges: then the value is NaN.

    Raises ValueError for traces and exponents as `minimize_over_scales` does, and for a
    ``learning_rate`` or ``num_steps`` that is not above 0.
    """
    traces, exponents = np.asarray(traces, np.float64), np.asarray(exponents, np.float64)
    check(traces, exponents)
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate is {learning_rate}; it must be a finite number above 0")
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
    kept = traces > 0
    traces, exponents = traces[kept], exponents[kept]
    total, v = traces.sum(), np.zeros(exponents.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(num_steps):
            terms = traces / total * np.exp(-2 * exponents @ v)
            v = v + learning_rate / (1 + decay * step) * 2 * terms @ exponents
        terms = traces * np.exp(-2 * exponents @ v)
        value = float(terms.sum())
        gradient = float(np.linalg.norm(2 * terms @ exponents) / value) if value else 0.0
    if not np.isfinite(value):
        return ScaleMinimum(np.nan, v, np.nan, np.nan, num_steps, False)
    gap = duality_gap(np.log(traces), exponents, v) if value else 0.0
    return ScaleMinimum(value, v, gradient, gap, num_steps, gap <= 1e-6 * value)
