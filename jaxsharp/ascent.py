"""Inner maximizers: perturbations of bounded size that raise the loss.

Measures look for the worst loss in a neighbourhood with them, optimizers avoid it.
"""

from jaxtyping import ScalarLike

from jaxsharp.trees import Vector, scaled_to_norm


def ascent_step(grads: Vector, rho: ScalarLike) -> Vector:
    """Return the maximizer of <grads, step> over the ball ||step||_2 <= rho.

    step = rho * grads / ||grads||_2, with the norm over the whole pytree and leaf dtypes kept. A
    zero gradient gives a zero step, never NaN; so does a gradient with an infinite or NaN entry,
    which a second pass then meets unchanged.

    Foret et al. 2021 (arXiv 2010.01412), equation 2 with p = 2.
    """
    return scaled_to_norm(grads, rho)
