"""The works on products: one product, many examples, and one Lanczos step."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import peers
import tasks
from jax.flatten_util import ravel_pytree
from measuring import Contender, Target, Work, ratio

from jaxsharp import curvature
from jaxsharp.core import mean_over_chunks
from jaxsharp.core.memory import affordable_chunk, budget


class Sizes(NamedTuple):
    """How large the works are; `smoke` takes other data, too."""

    smoke: bool = False
    cnns: tuple[str, str] = ("simple_batch", "lenet")  # for products and for traces
    product_examples: int = 1024
    eigen_examples: int = 4096
    stream_examples: tuple[int, ...] = (4096, 15_000, 30_000, 60_000)
    stream_chunk: int = 1024
    trace_examples: int = 1024
    trace_peer_batch: int = 1024
    trace_peer_examples: int = 20
    probes: int = 20
    width: int = 2048  # three hidden layers of it behind 784 pixels: 10.0 million parameters
    steps: tuple[int, int] = (5, 15)
    train_steps: int = 160  # 5 epochs of 4096 examples
    tol: float = 1e-4


SMOKE = Sizes(True, ("tiny_cnn", "tiny_cnn"), 16, 24, (16, 24), 8, 24, 16, 2, 4, 16, (5, 10), 20)
K = 5


def mlp_task(sizes: Sizes, num: int) -> tasks.Task:
    """The trained MLP on some examples of FashionMNIST."""
    data, steps = tasks.fashion_mnist, sizes.train_steps
    return tasks.make_task("mlp", data, sizes.smoke, num, steps=steps)


def product_works(sizes: Sizes) -> list[Work]:
    """Hessian products and gradients of two networks."""
    return [
        _product_work(sizes, "mlp_1", tasks.cifar10_shaped),
        _product_work(sizes, sizes.cnns[0], tasks.fashion_mnist),
    ]


def _product_work(sizes, model, dataset):
    n, torch = sizes.product_examples, ("torch",)
    contenders = [
        Contender("gradient", _gradient, n, read=_nothing),
        Contender("gradient, streamed", _streamed_gradient, n, read=_nothing),
        Contender("jaxsharp, linearized", _product(False), n, read=_one_product),
        Contender("jaxsharp, recomputed", _product(True), n, read=_one_product),
        Contender("jaxsharp, from scratch", _from_scratch, n, read=_one_product),
        Contender("PyTorch gradient", peers.torch_gradient, n, torch, _torch_product, _nothing),
        *(
            Contender(name, prepare, n, needs, _torch_product, peers.read_tensors)
            for name, prepare, needs in (
                ("PyTorch double backward", peers.torch_double_backward, torch),
                ("PyTorch, graph kept", peers.torch_kept_graph, torch),
                ("curvlinops", peers.curvlinops_product, (*torch, "curvlinops")),
            )
        ),
    ]
    kept, scratch = "jaxsharp, linearized", "jaxsharp, from scratch"
    double, graph = "PyTorch double backward", "PyTorch, graph kept"
    targets = [
        _over_gradient("Hessian product, linearized / gradient", kept, 2.2),
        _over_gradient("Hessian product, recomputed / gradient", "jaxsharp, recomputed", 3.2),
        ratio("PyTorch double backward / linearized", double, kept, ">=", 1.5),
        ratio("curvlinops / linearized", "curvlinops", kept, ">=", 1.5),
        ratio("PyTorch with its graph kept / linearized", graph, kept),
        ratio("PyTorch double backward / jaxsharp, both from scratch", double, scratch),
    ]

    def setup():
        return tasks.make_task(model, dataset, sizes.smoke, n)

    return Work(f"products {model}", setup, contenders, targets, check_product, 1e-3)


def _over_gradient(text, name, bound):
    """The time of a product over that of the faster of the two gradients."""

    def value(product, whole, streamed):
        return product.seconds / min(whole.seconds, streamed.seconds, key=np.median)

    return Target(text, (name, "gradient", "gradient, streamed"), value, "<=", bound)


def check_product(task, examples, answer):
    """Relative difference from the product in float64."""
    true = task.product(task.params, task.batch, direction(task))
    found = np.asarray(ravel_pytree(answer)[0], np.float64)
    return float(np.linalg.norm(found - true) / np.linalg.norm(true)), ""


def direction(task):
    """A random vector like the parameters, entries of size 1."""
    flat, unflatten = ravel_pytree(task.params)
    return unflatten(jax.random.normal(jax.random.key(1), flat.shape, flat.dtype))


def _torch_product(task):
    side = tasks.to_torch(task)
    return side, tasks.list_of_tensors(direction(task), side.module)


def _nothing(placed, result):
    return None, None


def _one_product(placed, result):
    return result, 1


def _gradient(task):
    gradient = jax.jit(jax.grad(task.loss))
    return lambda: gradient(task.params, task.batch)


def _chunk(task):
    """The chunk that jaxsharp would take for the gradient, but at most half the data."""
    gradient = functools.partial(jax.grad(task.loss), task.params)
    n = len(task.labels)
    return min(affordable_chunk(gradient, task.batch, budget()) or n, max(1, n // 2))


def _streamed_gradient(task):
    size = _chunk(task)

    @jax.jit
    def gradient(params, batch):
        return mean_over_chunks(lambda chunk: jax.grad(task.loss)(params, chunk), batch, size)

    return lambda: gradient(task.params, task.batch)


def _product(recompute):
    """prepare(task) for the product of an operator that is made once, streamed if recomputed."""

    def prepare(task):
        size = _chunk(task) if recompute else None
        options = {"chunk_size": size, "recompute": recompute}
        matvec = curvature.hessian(task.loss, task.params, task.batch, **options)
        vector = direction(task)
        return lambda: matvec(vector)

    return prepare


def _from_scratch(task):
    @jax.jit
    def product(params, batch, vector):
        return curvature.hessian(task.loss, params, batch, recompute=False)(vector)

    vector = direction(task)
    return lambda: product(task.params, task.batch, vector)


def top_pairs(k, tol, chunk_size=None, max_products=None):
    """prepare(task) for jaxsharp's eigenpairs, one program with weights and data as arguments."""

    def prepare(task):
        @jax.jit
        def pairs(params, batch, key):
            options = {"chunk_size": chunk_size, "recompute": chunk_size is not None}
            matvec = curvature.hessian(task.loss, params, batch, **options)
            return curvature.top_eigenpairs(
                matvec, params, key=key, k=k, tol=tol, max_products=max_products
            )

        return lambda: pairs(task.params, task.batch, jax.random.key(3))

    return prepare


def read_pairs(placed, result):
    """The values, the vectors one by one, and the number of products."""
    trees = [jax.tree.map(lambda leaf, i=i: leaf[i], result.vectors) for i in range(K)]
    return (np.asarray(result.values), trees), int(result.num_products)


def check_pairs(task, examples, answer):
    """Largest ||H v - value v|| / |value| over unit vectors, the product in float64."""
    batch = jax.tree.map(lambda leaf: leaf[:examples], task.batch)
    worst = 0.0
    for value, tree in zip(*answer, strict=True):
        vector = np.asarray(ravel_pytree(tree)[0], np.float64)
        image = task.product(task.params, batch, tree)
        residual = np.linalg.norm(image - value * vector) / np.linalg.norm(vector)
        worst = max(worst, float(residual / abs(value)))
    return worst, "values " + " ".join(f"{value:.6g}" for value in answer[0])


def example_works(sizes: Sizes) -> list[Work]:
    """Eigenpairs by streaming: is a product linear in the examples, the memory constant?"""
    counts = sizes.stream_examples
    names = [f"jaxsharp, {n} examples" for n in counts]
    contenders = [
        Contender(
            name,
            top_pairs(K, sizes.tol, sizes.stream_chunk),
            n,
            place=lambda task, n=n: task.first(n),
            read=read_pairs,
        )
        for n, name in zip(counts, names, strict=True)
    ]
    targets = [
        ratio(
            f"time per product and example, {counts[-1]} / {counts[0]} examples",
            names[-1],
            names[0],
            "<=",
            1.25,
            per=("examples", "products"),
        ),
        Target(
            f"peak memory, {counts[-1]} / {counts[1]} examples",
            (names[-1], names[1]),
            lambda a, b: np.array([a.memory / b.memory]),
            "<=",
            1.1,
        ),
    ]

    def setup():
        return mlp_task(sizes, counts[-1])

    return [Work("examples", setup, contenders, targets, check_pairs)]


def step_works(sizes: Sizes) -> list[Work]:
    """A Lanczos step of a large network beside its product, both as differences of two counts."""
    few, many = sizes.steps
    n, unreachable = sizes.product_examples, 1.3e-6
    lanczos_names = [f"jaxsharp, {count} steps" for count in sizes.steps]
    product_names = [f"products alone, {count}" for count in sizes.steps]
    contenders = [
        Contender(name, top_pairs(K, unreachable, None, count + 1), n, read=_count_products)
        for name, count in zip(lanczos_names, sizes.steps, strict=True)
    ]
    contenders += [
        Contender(name, _repeated_products(count), n, read=lambda placed, _, c=count: (None, c))
        for name, count in zip(product_names, sizes.steps, strict=True)
    ]

    def share(lanczos_few, lanczos_many, product_few, product_many):
        steps = np.median(lanczos_many.seconds - lanczos_few.seconds)
        alone = np.median(product_many.seconds - product_few.seconds)
        return np.array([1 - alone / steps])

    names = (*lanczos_names, *product_names)
    text = f"share of a Lanczos step that is not its product, steps {few + 1} to {many}"
    targets = [Target(text, names, share, "<=", 0.2)]

    def setup():
        data = tasks.fashion_mnist
        return tasks.make_task("wide", data, sizes.smoke, n, width=sizes.width)

    return [Work("step", setup, contenders, targets)]


def _count_products(placed, result):
    return None, int(result.num_products)


def _repeated_products(count):
    """prepare(task) for a power iteration of some products in one program."""

    def prepare(task):
        @jax.jit
        def repeated(params, batch, vector):
            matvec = curvature.hessian(task.loss, params, batch, recompute=False)

            def step(_, flat):
                flat = ravel_pytree(matvec(unflatten(flat)))[0]
                return flat / jax.numpy.linalg.norm(flat)

            flat, unflatten = ravel_pytree(vector)
            return jax.lax.fori_loop(0, count, step, flat)

        vector = direction(task)
        return lambda: repeated(task.params, task.batch, vector)

    return prepare
