"""Calls of PyTorch and the libraries on it, as they advise: prepare(placed) -> run, and read."""

import importlib

import jax
import numpy as np
from tasks import tree_of_arrays, tree_of_vector

# ---- Hessian products; placed is (TorchTask, list of tensors) ----


def torch_gradient(placed):
    """The gradient by PyTorch."""
    import torch

    side, _ = placed
    weights = list(side.module.parameters())
    return lambda: torch.autograd.grad(torch_loss(side), weights)


def torch_double_backward(placed):
    """Gradient and product at every call."""
    import torch

    side, vector = placed
    weights = list(side.module.parameters())

    def run():
        gradient = torch.autograd.grad(torch_loss(side), weights, create_graph=True)
        return torch.autograd.grad(gradient, weights, vector)

    return run


def torch_kept_graph(placed):
    """The gradient's graph is made once and kept; every call is the second backward pass alone."""
    import torch

    side, vector = placed
    weights = list(side.module.parameters())
    gradient = torch.autograd.grad(torch_loss(side), weights, create_graph=True)
    return lambda: torch.autograd.grad(gradient, weights, vector, retain_graph=True)


def curvlinops_product(placed):
    """The product of curvlinops' operator."""
    side, vector = placed
    operator = curvlinops_operator(side)
    return lambda: operator @ vector


def read_tensors(placed, result):
    """The product as a tree."""
    return tree_of_arrays(result, placed[0].module), 1


def torch_loss(side):
    """The mean cross-entropy."""
    import torch

    return torch.nn.functional.cross_entropy(side.module(side.inputs), side.labels)


def curvlinops_operator(side):
    """The Hessian over the whole data in one batch; its check of determinism is left out."""
    import torch
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(
        side.module,
        torch.nn.CrossEntropyLoss(),
        list(side.module.parameters()),
        [(side.inputs, side.labels)],
        check_deterministic=False,
        num_data=len(side.labels),
    )


# ---- Eigenpairs; placed is (TorchTask, k, tol, steps) ----


def pyhessian_eigenvalues(placed):
    """Power iteration with deflation, with the defaults: tol 1e-3, at most 100 steps a value."""
    side, k, _, _ = placed

    def run():
        operator, count = _pyhessian(side)
        values, vectors = operator.eigenvalues(top_n=k)
        return values, vectors, count()

    return run


def read_pyhessian(placed, result):
    """Values, trees and the number of products."""
    values, vectors, products = result
    return (np.array(values), [tree_of_arrays(v, placed[0].module) for v in vectors]), products


def _pyhessian(side):
    """PyHessian's object on a single batch, and the number of its products so far."""
    import torch

    module = importlib.import_module("pyhessian.hessian")
    original = getattr(module.hessian_vector_product, "original", module.hessian_vector_product)
    calls = []

    def counted(*arguments):
        calls.append(None)
        return original(*arguments)

    counted.original = original
    module.hessian_vector_product = counted
    torch.manual_seed(0)
    side.module.zero_grad()  # it takes the gradient from .grad, where an earlier one is added to
    operator = module.hessian(
        side.module,
        torch.nn.CrossEntropyLoss(),
        data=(side.inputs, side.labels),
        cuda=side.inputs.is_cuda,
    )
    return operator, lambda: len(calls)


def eigsh(placed):
    """SciPy's implicitly restarted Lanczos on curvlinops' operator."""
    import scipy.sparse.linalg

    side, k, tol, _ = placed

    def run():
        operator, count = curvlinops_operator(side).to_scipy(np.float32), []

        def product(vector):
            count.append(None)
            return operator.matvec(vector)

        counted = scipy.sparse.linalg.LinearOperator(operator.shape, product, dtype=np.float32)
        start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
        values, vectors = scipy.sparse.linalg.eigsh(counted, k=k, which="LA", tol=tol, v0=start)
        return values, vectors, len(count)

    return run


def read_columns(placed, result):
    """Values, trees and the number of products."""
    values, vectors, products = result
    trees = [tree_of_vector(v.copy(), placed[0].module) for v in vectors.T]
    return (values, trees), products


def eigenthings_lanczos(placed):
    """hessian-eigenthings' Lanczos, which has no stopping rule: as many steps as jaxsharp took."""
    import hessian_eigenthings as he
    import torch

    side, k, tol, steps = placed

    def run():
        loss = he.supervised_loss(torch.nn.CrossEntropyLoss())
        operator = he.HessianOperator(side.module, [(side.inputs, side.labels)], loss)
        return he.lanczos(
            operator, k=k, max_iter=steps, tol=tol, which="LA", seed=0, reorthogonalize=True
        )

    return run


def read_eigenthings(placed, result):
    """Values, trees and the number of products."""
    values, vectors = result.eigenvalues.cpu().numpy(), result.eigenvectors.cpu()
    return (values, [tree_of_vector(v, placed[0].module) for v in vectors]), result.iterations


# ---- Traces; placed is (TorchTask, number of examples or products) ----


def torch_group_traces(placed):
    """The method of Ibayashi et al. (2021): gradients example by example, one class at a time.

    With g_k the gradient of logit k of an example, p its probabilities and z = logsumexp of the
    logits, whose gradient is the mean of the g_k under p, the diagonal of the Hessian is the mean
    over examples of sum_k p_k g_k^2 - (grad z)^2, and a group's trace the sum of its entries. As in
    their code all gradients of a batch are formed at once, layer by layer, from what enters the
    layer and what is propagated back to its output; unlike there, backward passes stop at these.
    """
    import torch

    side, num = placed
    layers = [m for m in side.module if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]

    def run():
        inputs, outputs = [], []

        def keep(layer, arguments, output):
            inputs.append(arguments[0].detach())
            outputs.append(output)

        handles = [layer.register_forward_hook(keep) for layer in layers]
        logits = side.module(side.inputs[:num])
        for handle in handles:
            handle.remove()
        weights = torch.softmax(logits.detach(), 1)
        scalars = [logits.logsumexp(1), *logits.T]
        factors = [-torch.ones(num), *weights.T]
        diagonals = [torch.zeros_like(parameter) for parameter in side.module.parameters()]
        for scalar, factor in zip(scalars, factors, strict=True):
            signals = torch.autograd.grad(scalar.sum(), outputs, retain_graph=True)
            triples = zip(layers, inputs, signals, strict=True)
            gradients = [g for triple in triples for g in _per_example_gradients(*triple)]
            for diagonal, gradient in zip(diagonals, gradients, strict=True):
                squares = gradient.square().flatten(1)
                diagonal += (factor @ squares).reshape(diagonal.shape)
        return torch.stack([diagonal.sum() / num for diagonal in diagonals])

    return run


def _per_example_gradients(layer, entering, signal):
    """Of weight and bias, one a row, from the input and the output's gradient."""
    import torch

    if isinstance(layer, torch.nn.Linear):
        return torch.einsum("no,ni->noi", signal, entering), signal
    entering = torch.nn.functional.unfold(
        entering, layer.kernel_size, layer.dilation, layer.padding, layer.stride
    )
    signal = signal.flatten(2)
    return torch.einsum("nop,nip->noi", signal, entering), signal.sum(2)


def torch_group_traces_one_by_one(placed):
    """For each example a backward pass to all parameters for each class.

    With g the mean of the g_k under p, the trace of a group is sum_k p_k ||g_k - g||^2.
    """
    import torch

    side, num = placed
    weights = list(side.module.parameters())

    def example(image):
        logits = side.module(image[None])[0]
        p = torch.softmax(logits.detach(), 0)
        rows = [torch.autograd.grad(logit, weights, retain_graph=True) for logit in logits]
        traces = []
        for gradients in zip(*rows, strict=True):
            gradients = torch.stack(gradients).flatten(1)
            centered = gradients - p @ gradients
            traces.append(torch.sum(p * centered.square().sum(1)))
        return torch.stack(traces)

    return lambda: sum(example(image) for image in side.inputs[:num]) / num


def read_group_traces(placed, result):
    """The traces as a tree."""
    module = placed[0].module
    scalars = [
        value.reshape([1] * parameter.ndim).expand(parameter.shape)
        for value, parameter in zip(result, module.parameters(), strict=True)
    ]
    return jax.tree.map(lambda leaf: leaf.flat[0], tree_of_arrays(scalars, module)), None


def pyhessian_trace(placed):
    """Hutchinson's estimate; tol 0 switches the stopping rule off."""
    side, num = placed

    def run():
        operator, count = _pyhessian(side)
        return np.mean(operator.trace(maxIter=num, tol=0)), count()

    return run


def read_pair(placed, result):
    """The estimate and the number of products."""
    return (float(result[0]), float("nan")), int(result[1])
