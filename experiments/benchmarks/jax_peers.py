"""Calls of the JAX peers, as they advise: prepare(placed) -> run, and read."""

import jax
import numpy as np
from jax.flatten_util import ravel_pytree


def plain_product(task):
    """product(v, params, batch), forward over reverse, anew each time."""

    def product(vector, params, batch):
        gradient = jax.grad(lambda point: task.loss(point, batch))
        return jax.jvp(gradient, (params,), (vector,))[1]

    return product


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def matfree_eigenpairs(placed):
    """matfree's Lanczos, which has no stopping rule: as many steps as jaxsharp took.

    placed is (Task, k, tol, steps).
    """
    from matfree import decomp, eig

    task, k, _, steps = placed
    start = jax.tree.map(np.ones_like, task.params)
    start = ravel_pytree(start)[1](jax.random.normal(jax.random.key(1), (_size(task.params),)))
    partial = eig.eigh_partial(decomp.tridiag_sym(steps))

    @jax.jit
    def pairs(start, params, batch):
        values, vectors = partial(plain_product(task), start, params, batch)
        order = np.arange(steps)[::-1][:k]
        return values[order], jax.tree.map(lambda leaf: leaf[order], vectors)

    return lambda: pairs(start, task.params, task.batch)


def read_stacked(placed, result):
    """Values, trees and the number of products."""
    values, vectors = result
    trees = [jax.tree.map(lambda leaf, i=i: leaf[i], vectors) for i in range(placed[1])]
    return (np.asarray(values), trees), placed[-1]


def matfree_trace(placed):
    """matfree's trace by random signs, all at once, with its standard error.

    placed is (Task, number of products).
    """
    from matfree import stochtrace

    task, num = placed
    sampler = stochtrace.sampler_signs(task.params, num=num)
    estimator = stochtrace.estimator_monte_carlo_mean_and_sem(
        stochtrace.monte_carlo_trace(), sampler=sampler
    )

    @jax.jit
    def estimate(key, params, batch):
        return estimator(plain_product(task), key, params, batch)

    return lambda: estimate(jax.random.key(2), task.params, task.batch)


def traceax_trace(estimator_name, sampler_name):
    """traceax's estimator on a function of flat vectors; by default its signs are integers."""

    def prepare(placed):
        import lineax
        import traceax

        task, num = placed
        flat, unflatten = ravel_pytree(task.params)
        sampler = getattr(traceax, sampler_name)(flat.dtype)
        estimator = getattr(traceax, estimator_name)(sampler)

        @jax.jit
        def estimate(key, params, batch):
            def product(vector):
                return ravel_pytree(plain_product(task)(unflatten(vector), params, batch))[0]

            operator = lineax.FunctionLinearOperator(product, jax.eval_shape(lambda: flat))
            value, more = estimator.estimate(key, operator, num)
            return value, more.get("std.err", np.nan)

        return lambda: estimate(jax.random.key(2), task.params, task.batch)

    return prepare


def read_estimate(placed, result):
    """The estimate, its standard error, and the number of products."""
    return tuple(float(part) for part in result), placed[1]
