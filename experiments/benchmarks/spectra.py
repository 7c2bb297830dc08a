"""The works on spectra: top eigenpairs, and traces exact and estimated."""

import functools

import jax
import jax_peers
import numpy as np
import peers
import tasks
from measuring import Contender, Work, ratio
from works import K, Sizes, check_pairs, mlp_task, read_pairs, top_pairs

from jaxsharp import curvature


def eigen_works(sizes: Sizes) -> list[Work]:
    """The top 5 eigenpairs of a trained MLP."""
    n, tol, torch = sizes.eigen_examples, sizes.tol, ("torch",)
    mine = "jaxsharp"

    def place_torch(task):
        return tasks.to_torch(task), K, tol, None

    def place_torch_steps(task):
        return tasks.to_torch(task), K, tol, _steps(task, tol)

    def place_steps(task):
        return task, K, tol, _steps(task, tol)

    contenders = [
        Contender(mine, top_pairs(K, tol), n, read=read_pairs),
        Contender(
            "PyHessian",
            peers.pyhessian_eigenvalues,
            n,
            (*torch, "pyhessian"),
            place_torch,
            peers.read_pyhessian,
        ),
        Contender(
            "curvlinops + eigsh",
            peers.eigsh,
            n,
            (*torch, "curvlinops"),
            place_torch,
            peers.read_columns,
        ),
        Contender(
            "hessian-eigenthings",
            peers.eigenthings_lanczos,
            n,
            (*torch, "hessian_eigenthings"),
            place_torch_steps,
            peers.read_eigenthings,
        ),
        Contender(
            "matfree",
            jax_peers.matfree_eigenpairs,
            n,
            ("matfree",),
            place_steps,
            jax_peers.read_stacked,
        ),
    ]
    targets = [
        ratio("PyHessian / jaxsharp", "PyHessian", mine, ">=", 4.0),
        ratio("curvlinops with eigsh / jaxsharp", "curvlinops + eigsh", mine, ">=", 4.0),
        ratio("hessian-eigenthings / jaxsharp", "hessian-eigenthings", mine),
        ratio("matfree / jaxsharp", "matfree", mine),
    ]

    def setup():
        return mlp_task(sizes, n)

    return [Work("eigenpairs mlp", setup, contenders, targets, check_pairs)]


@functools.cache
def _steps(task, tol):
    """The number of Lanczos steps that jaxsharp takes."""
    return int(top_pairs(K, tol)(task)().num_products) - K


def trace_works(sizes: Sizes) -> list[Work]:
    """Exact traces of two networks by parameter array, then estimates of the whole trace."""
    return [
        _group_work(sizes, "mlp", 300.0),
        _group_work(sizes, sizes.cnns[1], 50.0),
        _estimate_work(sizes),
    ]


def _group_work(sizes, model, bound):
    batch, few, many = sizes.trace_peer_batch, sizes.trace_peer_examples, sizes.trace_examples
    mine, method, loop = "jaxsharp", "Ibayashi et al.'s method", "PyTorch, example by example"

    def torch_peer(name, prepare, num):
        def place(task):
            return tasks.to_torch(task), num

        return Contender(name, prepare, num, ("torch",), place, peers.read_group_traces)

    contenders = [
        Contender(mine, _group_traces, many),
        torch_peer(method, peers.torch_group_traces, batch),
        torch_peer(loop, peers.torch_group_traces_one_by_one, few),
    ]
    targets = [
        ratio(f"time per example, {method} / jaxsharp", method, mine, ">=", bound, ("examples",)),
        ratio(f"time per example, {loop} / jaxsharp", loop, mine, per=("examples",)),
    ]

    def setup():
        return tasks.make_task(model, tasks.fashion_mnist, sizes.smoke, many)

    return Work(f"traces {model}", setup, contenders, targets, _check_groups, 1e-4)


def _group_traces(task):
    group_traces = jax.jit(_exact(task))
    return lambda: group_traces(task.params, task.stats, task.images)


def _exact(task):
    """jaxsharp's traces as a function of weights, statistics and images."""

    def example(params, stats, image):
        return task.network.apply(params, stats, image[None], False)[0][0]

    return lambda params, stats, images: curvature.exact_traces(example, params, stats, images)


def _check_groups(task, examples, answer):
    """Largest relative difference of a trace from jaxsharp's in float64 on the same examples."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), task.params)
        true = jax.jit(_exact(task))(params, task.stats, task.images[:examples])
        pairs = zip(jax.tree.leaves(answer), jax.tree.leaves(true), strict=True)
        worst = max(abs(float(found) / float(value) - 1) for found, value in pairs)
        return worst, f"sum {sum(map(float, jax.tree.leaves(answer))):.6g}"


def _estimate_work(sizes):
    n, num = sizes.trace_examples, sizes.probes

    def place(task):
        return task, num

    def place_torch(task):
        return tasks.to_torch(task), num

    def jax_peer(name, prepare, needs):
        return Contender(name, prepare, n, needs, place, jax_peers.read_estimate)

    contenders = [
        Contender("jaxsharp", _hutchinson, n, place=place, read=_read_hutchinson),
        Contender(
            "PyHessian",
            peers.pyhessian_trace,
            n,
            ("torch", "pyhessian"),
            place_torch,
            peers.read_pair,
        ),
        jax_peer("matfree", jax_peers.matfree_trace, ("matfree",)),
        jax_peer(
            "traceax, Hutchinson",
            jax_peers.traceax_trace("HutchinsonEstimator", "RademacherSampler"),
            ("traceax", "lineax"),
        ),
        jax_peer(
            "traceax, XTrace",
            jax_peers.traceax_trace("XTraceEstimator", "SphereSampler"),
            ("traceax", "lineax"),
        ),
    ]
    targets = [
        ratio(f"{c.name} / jaxsharp, {num} products", c.name, "jaxsharp") for c in contenders[1:]
    ]

    def setup():
        return mlp_task(sizes, n)

    return Work("trace estimates mlp", setup, contenders, targets, _check_estimate)


def _hutchinson(placed):
    task, num = placed

    @jax.jit
    def estimate(params, batch, key):
        matvec = curvature.hessian(task.loss, params, batch, recompute=False)
        return curvature.hutchinson(matvec, params, key=key, rtol=0.0, max_products=num)

    return lambda: estimate(task.params, task.batch, jax.random.key(2))


def _read_hutchinson(placed, result):
    return (float(result.mean), float(result.stderr)), int(result.num_products)


def _check_estimate(task, examples, answer):
    """Relative error of the estimate, whose own standard error is remarked."""
    true = jax.jit(_exact(task))(task.params, task.stats, task.images)
    true = sum(float(leaf) for leaf in jax.tree.leaves(true))
    estimate, stderr = answer[0], answer[1]
    return abs(estimate / true - 1), f"{estimate:.6g}, standard error {stderr:.2g}, true {true:.6g}"
