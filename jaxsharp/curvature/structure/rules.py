"""Derivative rules of users, compared with the functions that they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Cotangents of several sizes, as a rule may clip them.
SIZES = (1e-4, 1.0, 1e4)


def is_derivative(eqn) -> bool | None:
    """Whether the rule of a custom_jvp or custom_vjp is its function's derivative.

    At random points (normal, wide, in (0, 1), above 1) and for random u and v of several sizes,
    <J^T u, v> by the rule must be <u, J v> by the function itself, without rules, to the square
    root of the dtype's precision. None: there is no point where both can be computed.
    """
    closed = eqn.params["call_jaxpr"]
    rng = np.random.default_rng(0)
    draws = (rng.normal, lambda size: 30 * rng.normal(size=size))
    draws += (lambda size: rng.uniform(0.05, 0.95, size), lambda size: rng.uniform(1, 10, size))
    try:
        with jax.ensure_compile_time_eval():
            found = [_agrees(eqn, closed, rng, draw) for draw in draws for _ in range(2)]
    except Exception:  # whatever a user's rule raises on points that are not the user's
        return None
    known = [agrees for agrees in found if agrees is not None]
    return all(known) if known else None


def _agrees(eqn, closed, rng, draw):
    floating = lambda a: jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
    avals = [v.aval for v in eqn.invars]
    points = [
        jnp.asarray(draw(size=a.shape) if floating(a) else rng.integers(0, 2, a.shape), a.dtype)
        for a in avals
    ]
    positions = [i for i, a in enumerate(avals) if floating(a)]

    def on_floats(call):
        def fn(*floats):
            operands = list(points)
            for i, value in zip(positions, floats, strict=True):
                operands[i] = value
            return [out for out in call(*operands) if floating(out)]

        return fn

    ruled = on_floats(
        lambda *xs: eqn.primitive.bind(*xs, **eqn.primitive.get_bind_params(eqn.params))
    )
    plain = on_floats(lambda *xs: _without_rules(closed, xs))
    at = [points[i] for i in positions]
    normal = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype)  # noqa: E731
    v = [normal(a) for a in at]
    outputs, tangents = jax.jvp(plain, at, v)
    if not all(np.all(np.isfinite(t)) for t in (*outputs, *tangents)):
        return None
    _, pullback = jax.vjp(ruled, *at)
    u = [normal(t) for t in tangents]
    precision = max(float(jnp.finfo(a.dtype).eps) for a in (*at, *tangents))
    for size in SIZES:
        back = pullback([(size * a).astype(a.dtype) for a in u])
        by_rule, scale = _dot(back, v)
        by_function, reference = _dot(u, tangents)
        floor = 100 * precision * _norm(u) * _norm(v)
        allowed = precision**0.5 * max(reference, scale / size) + floor
        if not abs(by_rule / size - by_function) <= allowed:
            return False
    return True


def _without_rules(closed, operands):
    """Run a program with every custom rule in it replaced by its function."""
    env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, operands, strict=True))
    lookup = lambda atom: atom.val if isinstance(atom, core.Literal) else env[atom]  # noqa: E731
    for eqn in closed.jaxpr.eqns:
        values = [lookup(atom) for atom in eqn.invars]
        if (inner := eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))) is not None and (
            eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call", "jit")
        ):
            outputs = _without_rules(inner, values)
        else:
            outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [lookup(atom) for atom in closed.jaxpr.outvars]


def _dot(a, b):
    """Inner product in float64, and the size of such a sum if its terms had random signs."""
    terms = [
        np.ravel(np.asarray(x, np.float64) * np.asarray(y, np.float64))
        for x, y in zip(a, b, strict=True)
    ]
    terms = np.concatenate(terms)
    return float(terms.sum()), float(np.linalg.norm(terms))


def _norm(a):
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in a)))
