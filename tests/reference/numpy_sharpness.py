"""Sharpness-aware gradients in float64 NumPy, from the papers' algorithms.

Each takes a gradient function and returns another, params -> gradient, for the loops of
numpy_optimizers; those with a memory keep it between calls, one call a step.
"""

import numpy as np
from numpy_optimizers import sam_grad


def norm(tree):
    return np.sqrt(sum(np.sum(x**2) for x in tree.values()))


def dot(left, right):
    return sum(np.sum(left[name] * right[name]) for name in left)


def moved(params, direction, length):
    """`length` along a direction; nowhere along the zero direction."""
    if norm(direction) == 0:
        return params
    return {name: params[name] + length * direction[name] / norm(direction) for name in params}


def asam_grad(grad, rho, *, eta, is_adapted):
    """Kwon et al. 2021, Algorithm 1 with p = 2; T = 1 where `is_adapted(name)` is False."""

    def sharp(params):
        g = grad(params)
        t = {
            name: np.abs(p) + eta if is_adapted(name) else np.ones_like(p)
            for name, p in params.items()
        }
        length = norm({name: t[name] * g[name] for name in g})
        return grad({name: params[name] + rho * t[name] ** 2 * g[name] / length for name in g})

    return sharp


def multi_step_grad(grad, rho, *, num_steps):
    """Foret et al. 2021, several ascent steps of rho / num_steps."""

    def sharp(params):
        point = params
        for _ in range(num_steps):
            point = moved(point, grad(point), rho / num_steps)
        return grad(point)

    return sharp


def m_sam_grad(grad_of_batch, batch, rho, *, m):
    """Foret et al. 2021, section 4.1: the mean of SAM gradients of groups of m examples."""

    def sharp(params):
        num_groups = len(batch[0]) // m
        total = {name: np.zeros_like(p) for name, p in params.items()}
        for i in range(num_groups):
            group = tuple(part[i * m : (i + 1) * m] for part in batch)
            g = sam_grad(lambda params, group=group: grad_of_batch(params, group), rho)(params)
            total = {name: total[name] + g[name] / num_groups for name in g}
        return total

    return sharp


def gsam_grad(grad, rho, *, alpha):
    """Zhuang et al. 2022, Algorithm 1, with rho constant."""

    def sharp(params):
        g = grad(params)
        g_p = grad(moved(params, g, rho))
        cosine = dot(g, g_p) / norm(g) / norm(g_p)
        across = {name: g[name] - cosine * norm(g) * g_p[name] / norm(g_p) for name in g}
        return {name: g_p[name] - alpha * across[name] for name in g}

    return sharp


def look_sam_grad(grad, rho, *, every, alpha):
    """Liu et al. 2022, Algorithm 1."""
    t, g_v = 0, None

    def sharp(params):
        nonlocal t, g_v
        g = grad(params)
        if t % every == 0:
            g_s = grad(moved(params, g, rho))
            cosine = dot(g, g_s) / norm(g) / norm(g_s)
            g_v = {name: g_s[name] - norm(g_s) * cosine * g[name] / norm(g) for name in g}
        else:
            g_s = {name: g[name] + alpha * norm(g) / norm(g_v) * g_v[name] for name in g}
        t += 1
        return g_s

    return sharp


def friendly_sam_grad(grad, rho, *, sigma, decay):
    """Li et al. 2024, Algorithm 1: the average starts at zero and has the present gradient."""
    m = None

    def sharp(params):
        nonlocal m
        g = grad(params)
        m = {name: np.zeros_like(p) for name, p in params.items()} if m is None else m
        m = {name: decay * m[name] + (1 - decay) * g[name] for name in g}
        noise = {name: g[name] - sigma * m[name] for name in g}
        return grad(moved(params, noise, rho))

    return sharp


def momentum_sam_grad(grad, rho, *, decay):
    """Becker et al. 2024, Algorithm 1: the buffer of heavy ball, kept here for every base."""
    v = None

    def sharp(params):
        nonlocal v
        v = {name: np.zeros_like(p) for name, p in params.items()} if v is None else v
        g = grad(moved(params, v, -rho))
        v = {name: decay * v[name] + g[name] for name in g}
        return g

    return sharp
