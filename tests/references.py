"""Slow, obvious references: dense matrices in float64, loops over single examples."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def dense_hessian(loss, params, batch):
    """Return the (P, P) Hessian in the order of `ravel_pytree(params)`, by reverse mode twice."""
    flat, unflatten = ravel_pytree(params)
    assert flat.dtype == jnp.float64, "references are computed in float64"
    return jax.jit(jax.jacrev(jax.grad(lambda vector: loss(unflatten(vector), batch))))(flat)


def dense_ggn(apply, output_loss, params, batch):
    """Return the (P, P) matrix J^T H J from the dense Jacobian and the dense output Hessian."""
    flat, unflatten = ravel_pytree(params)
    outputs = apply(params, batch)

    @jax.jit
    def matrices(flat):
        jacobian = jax.jacrev(lambda vector: apply(unflatten(vector), batch).ravel())(flat)
        of_outputs = lambda out: output_loss(out.reshape(outputs.shape), batch)  # noqa: E731
        return jacobian, jax.jacrev(jax.grad(of_outputs))(outputs.ravel())

    jacobian, output_hessian = matrices(flat)
    return jacobian.T @ output_hessian @ jacobian


def mean_outer_product(vectors):
    """Return the mean of v v^T over the rows v."""
    vectors = np.asarray(vectors)
    return vectors.T @ vectors / len(vectors)


def dense_matrix(matvec, like):
    """Return the matrix of a linear map between pytrees, one product per column."""
    vector, unflatten = ravel_pytree(like)
    basis = jnp.eye(vector.size, dtype=vector.dtype)
    columns = [ravel_pytree(matvec(unflatten(direction)))[0] for direction in basis]
    return jnp.stack(columns, axis=1)


def example(batch, index):
    """Return the batch that holds only one of the examples."""
    return jax.tree.map(lambda leaf: leaf[index : index + 1], batch)


def mean_over_examples(fn, batch):
    """Return the mean of fn over single examples, by a Python loop."""
    n = len(jax.tree.leaves(batch)[0])
    values = [fn(example(batch, i)) for i in range(n)]
    return jax.tree.map(lambda *leaves: sum(leaves) / n, *values)


def symmetric_matrix(eigenvalues, seed=0):
    """Return a dense symmetric matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    matrix = (rotation * np.asarray(eigenvalues)) @ rotation.T
    return (matrix + matrix.T) / 2


def dot_precisions(jaxpr):
    """Return the precision of every matrix product and convolution, at any depth."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(equation.params["precision"])
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += dot_precisions(inner)
    return found
