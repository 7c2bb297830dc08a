"""Optimizers as loops in float64 NumPy, from the papers' or PyTorch's documented formulas.

Each takes a gradient function and a dict of arrays and returns the list of parameters after every
step, the initial ones first.
"""

import numpy as np

SHAPES = {"weight": (3, 2), "bias": (4,), "scale": ()}


def initial_params():
    sizes = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
    return {
        name: (1.0 + np.cos(1.0 + np.arange(sizes[name]) * len(name))).reshape(shape)
        for name, shape in SHAPES.items()
    }


def hessian():
    """Eigenvalues from 1e-3 to 10, eigenvectors that mix all tensors."""
    size = sum(int(np.prod(shape)) for shape in SHAPES.values())
    normal = np.sin(1.0 + np.arange(size))
    reflection = np.eye(size) - 2 * np.outer(normal, normal) / np.dot(normal, normal)
    return reflection @ np.diag(np.logspace(-3, 1, size)) @ reflection


def flatten(params):
    return np.concatenate([np.ravel(params[name]) for name in SHAPES])


def unflatten(vector):
    params, start = {}, 0
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        params[name] = vector[start : start + size].reshape(shape)
        start += size
    return params


def quadratic_grad(params):
    """Gradient of 0.5 x^T A x."""
    return unflatten(hessian() @ flatten(params))


def sam_grad(grad, rho):
    def sharpness_aware(params):
        grads = grad(params)
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        return grad({name: params[name] + rho * grads[name] / norm for name in params})

    return sharpness_aware


def sgd(grad, params, steps, *, lr=0.1):
    trajectory = [params]
    for _ in range(steps):
        g = grad(params)
        params = {name: params[name] - lr * g[name] for name in params}
        trajectory.append(params)
    return trajectory


def heavy_ball(grad, params, steps, *, lr=0.01, momentum=0.8):
    trajectory = [params]
    buf = {name: np.zeros_like(p) for name, p in params.items()}
    for _ in range(steps):
        g = grad(params)
        buf = {name: momentum * buf[name] + g[name] for name in params}
        params = {name: params[name] - lr * buf[name] for name in params}
        trajectory.append(params)
    return trajectory


def adagrad(grad, params, steps, *, lr=0.01, eps=1e-10):
    trajectory = [params]
    total = {name: np.zeros_like(p) for name, p in params.items()}
    for _ in range(steps):
        g = grad(params)
        total = {name: total[name] + g[name] ** 2 for name in params}
        params = {
            name: params[name] - lr * g[name] / (np.sqrt(total[name]) + eps) for name in params
        }
        trajectory.append(params)
    return trajectory


def adam(grad, params, steps, *, lr=0.001, b1=0.9, b2=0.999, eps=1e-8):
    trajectory = [params]
    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: np.zeros_like(p) for name, p in params.items()}
    for t in range(1, steps + 1):
        g = grad(params)
        new = {}
        for name in params:
            m[name] = b1 * m[name] + (1 - b1) * g[name]
            v[name] = b2 * v[name] + (1 - b2) * g[name] ** 2
            m_hat = m[name] / (1 - b1**t)
            v_hat = v[name] / (1 - b2**t)
            new[name] = params[name] - lr * m_hat / (np.sqrt(v_hat) + eps)
        params = new
        trajectory.append(params)
    return trajectory


def adashift(grad, params, steps, *, lr=0.01, b1=0.9, b2=0.999, window=10, eps=1e-10):
    """lr may be a function of t - 1."""
    trajectory = [params]
    history = []  # history[t - 1] is g_t
    v = {name: 0.0 for name in params}
    for t in range(1, steps + 1):
        history.append(grad(params))
        rate = lr(t - 1) if callable(lr) else lr
        new = {}
        for name in params:
            if t <= window:
                new[name] = params[name]
                continue
            numerator = sum(b1**i * history[t - i - 1][name] for i in range(window))
            m = numerator / sum(b1**i for i in range(window))
            v[name] = b2 * v[name] + (1 - b2) * np.max(history[t - window - 1][name] ** 2)
            v_hat = v[name] / (1 - b2 ** (t - window))
            step = rate * m / (np.sqrt(v_hat) + eps) if v_hat > 0 else 0.0
            new[name] = params[name] - step
        params = new
        trajectory.append(params)
    return trajectory


def adashift_with_an_empty_window(
    grad, params, steps, *, lr, b1=0.9, b2=0.999, window=10, eps=1e-10
):
    """A widely copied PyTorch code: a running first moment, zero until the window is full.

    What leaves the window at first was never added, so old gradients stay in with a minus sign.
    """
    trajectory = [params]
    history = []
    total = sum(b1**i for i in range(window))
    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: 0.0 for name in params}
    for t in range(1, steps + 1):
        history.append(grad(params))
        if t > window:
            new = {}
            for name in params:
                leaving = history[t - window - 1][name]
                m[name] = b1 * (m[name] - b1 ** (window - 1) / total * leaving)
                m[name] = m[name] + history[-1][name] / total
                v[name] = b2 * v[name] + (1 - b2) * np.max(leaving**2)
                v_hat = v[name] / (1 - b2 ** (t - window))
                new[name] = params[name] - lr * m[name] / (np.sqrt(v_hat) + eps)
            params = new
        trajectory.append(params)
    return trajectory


def adabound(
    grad,
    params,
    steps,
    *,
    lr=0.001,
    base_lr=0.001,
    final_lr=0.1,
    gamma=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    ams=False,
):
    """lr may be a function of t - 1."""
    trajectory = [params]
    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: np.zeros_like(p) for name, p in params.items()}
    largest_v = {name: np.zeros_like(p) for name, p in params.items()}
    for t in range(1, steps + 1):
        g = grad(params)
        rate = lr(t - 1) if callable(lr) else lr
        final = final_lr * rate / base_lr
        lower = final * (1 - 1 / (gamma * t + 1))
        upper = final * (1 + 1 / (gamma * t))
        new = {}
        for name in params:
            m[name] = b1 * m[name] + (1 - b1) * g[name]
            v[name] = b2 * v[name] + (1 - b2) * g[name] ** 2
            largest_v[name] = np.maximum(largest_v[name], v[name])
            denominator = np.sqrt(largest_v[name] if ams else v[name]) + eps
            size = rate * np.sqrt(1 - b2**t) / (1 - b1**t) / denominator
            new[name] = params[name] - np.clip(size, lower, upper) * m[name]
        params = new
        trajectory.append(params)
    return trajectory
