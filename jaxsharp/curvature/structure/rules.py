"""Derivative rules of users, compared with the functions that they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxsharp.core.programs import constants, own_settings
from jaxsharp.curvature.structure.tables import subprogram

# Cotangents of several sizes, as a rule may clip them.
SIZES = (1e-4, 1.0, 1e4)
# What was found of rules, by the text of their programs, as far as these are all text.
_FOUND: dict[tuple[str, str], bool | None] = {}


def is_derivative(eqn: core.JaxprEqn) -> bool | None:
    """Whether the rule of a custom_jvp or custom_vjp is its function's derivative.

    At random points (normal, wide, in (0, 1), above 1) and for random v and u of several sizes,
    <J^T u, v> by the rule must be <u, J v> by the function itself, without rules, to the square
    root of the dtype's precision. A rule that is false at none of these points passes. None:
    there is no point where both can be computed.
    """
    avals = [v.aval for v in eqn.invars]
    floats = [i for i, a in enumerate(avals) if _floating(a)]

    def compared(points, v, u):
        """The function's values and J v, and J^T u by the rule for u of each size."""

        def on_floats(call):
            def fn(*values):
                operands = list(points)
                for i, value in zip(floats, values, strict=True):
                    operands[i] = value
                return [out for out in call(operands) if _floating(out)]

            return fn

        at = [points[i] for i in floats]
        params = eqn.primitive.get_bind_params(eqn.params)
        _, pullback = jax.vjp(on_floats(lambda xs: eqn.primitive.bind(*xs, **params)), *at)
        plain = on_floats(lambda xs: _without_rules(subprogram(eqn), xs))
        sized = [[(size * a).astype(a.dtype) for a in u] for size in SIZES]
        return *jax.jvp(plain, at, v), [pullback(a) for a in sized]

    tangents = [avals[i] for i in floats], [v.aval for v in eqn.outvars if _floating(v.aval)]
    try:
        program = jax.make_jaxpr(compared)(*_like((avals, *tangents)))
        key = str(program), str(eqn.params["call_jaxpr"])
        fixed = not list(constants(program)) and "0x" not in "".join(key)  # no address of Python's
        if not (fixed and key in _FOUND):
            with own_settings(), jax.ensure_compile_time_eval():
                _FOUND[key] = _agrees(jax.jit(compared), avals, *tangents)
        return _FOUND[key] if fixed else _FOUND.pop(key)
    except Exception:  # whatever a user's rule raises at points that are not the user's
        return None


def _agrees(compared, avals, inputs, outputs):
    rng = np.random.default_rng(0)
    draws = (rng.normal, lambda size: 30 * rng.normal(size=size))
    draws += (lambda size: rng.uniform(0.05, 0.95, size), lambda size: rng.uniform(1, 10, size))
    normal = lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype)  # noqa: E731
    precision = max(float(jnp.finfo(a.dtype).eps) for a in (*inputs, *outputs))
    known = None
    for draw in (*draws, *draws):
        points = [
            jnp.asarray(
                draw(size=a.shape) if _floating(a) else rng.integers(0, 2, a.shape), a.dtype
            )
            for a in avals
        ]
        v, u = ([normal(a) for a in of] for of in (inputs, outputs))
        values, tangents, pulled = compared(points, v, u)
        if not all(np.all(np.isfinite(t)) for t in (*values, *tangents)):
            continue
        known = True
        by_function, spread = _dot(u, tangents)
        floor = 100 * precision * _norm(u) * _norm(v)
        for size, back in zip(SIZES, pulled, strict=True):
            by_rule, ruled_spread = _dot(back, v)
            allowed = precision**0.5 * max(spread, ruled_spread / size) + floor
            if not abs(by_rule / size - by_function) <= allowed:
                return False
    return known


def _without_rules(closed, operands):
    """Run a program with every custom rule in it replaced by its function."""
    env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, operands, strict=True))
    lookup = lambda atom: atom.val if isinstance(atom, core.Literal) else env[atom]  # noqa: E731
    for eqn in closed.jaxpr.eqns:
        values = [lookup(atom) for atom in eqn.invars]
        if inner := subprogram(eqn):
            outputs = _without_rules(inner, values)
        else:
            outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [lookup(atom) for atom in closed.jaxpr.outvars]


def _floating(a):
    return jnp.issubdtype(a.dtype, jnp.floating)


def _like(avals):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), avals)


def _dot(a, b):
    """Inner product in float64, and the size of such a sum if its terms had random signs."""
    pairs = zip(a, b, strict=True)
    terms = np.concatenate([np.ravel(np.float64(x) * np.float64(y)) for x, y in pairs])
    return float(terms.sum()), float(np.linalg.norm(terms))


def _norm(a):
    return float(np.sqrt(sum(np.sum(np.square(np.float64(x))) for x in a)))
