"""What runs are made from, as digests: data, network and optimizer."""

import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import jax

from jaxsharp.core import fingerprints
from jaxsharp.core.memory import budget
from jaxsharp.core.trees import abstract
from jaxsharp.measures.contract import Measure, Options, Trained
from jaxsharp.measures.registry import own_measure
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies.recipes import hyper_arrays, step_of, unchecked_recipe
from jaxsharp.studies.workbench import EXAMPLES, Workbench
from jaxsharp.training.epochs import training_gradient


def contents(bench: Workbench) -> dict[str, str]:
    """Digests of a workbench's data and network by field of `Fingerprint`; nothing is computed.

    Of the network: initialization, both modes, the moments, and the gradient in training, which
    has the rules of custom derivatives, on `EXAMPLES` images; of a loss over whole batches on one
    of these, and the size of it and the accuracy too. The number of classes is in that of the
    labels.
    """
    train, test = bench.dataset.train, bench.dataset.test
    labels = [fingerprints.of_array(split.labels) for split in (train, test)]
    return {
        "train_images": fingerprints.of_array(train.images),
        "train_labels": fingerprints.of_text(f"{bench.dataset.num_classes} {labels[0]}"),
        "test_images": fingerprints.of_array(test.images),
        "test_labels": labels[1],
        "network": fingerprints.of_text(" ".join(network_digests(bench))),
    }


def network_digests(bench: Workbench) -> Iterator[str]:
    """Digests of the programs of the networks that are measured and trained."""
    network, (images, labels) = bench.network, bench.dataset.train
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, stats = jax.eval_shape(network.init, key)
    loss, count = network.loss, network.loss.batch_size or EXAMPLES
    batch = tuple(abstract(each, (count, *each.shape[1:])) for each in (images, labels))
    yield fingerprints.of_program(network.init, key)
    gradient = training_gradient(network, loss.mean)
    yield fingerprints.of_program(gradient, params, stats, batch, key)
    if loss.batch_size is not None:
        yield f"batches of {count}"
        outputs = jax.eval_shape(network.evaluate, params, stats, batch[0])
        yield fingerprints.of_program(loss.accuracy or loss.mean, outputs, batch[1])
    try:
        yield fingerprints.of_program(network.moments, params, stats, stats, batch[0])
    except (TypeError, ValueError):  # a network may have none
        yield "no moments"
    for each in dict.fromkeys((network, bench.trained)):
        yield fingerprints.of_program(each.evaluate, params, stats, batch[0])
        yield fingerprints.of_program(each.forward, params, stats, batch[0], key)


def with_code(fn: Callable, bench: Workbench, options: Options, size: int | None = None) -> Measure:
    """A measure of the user's own, with a digest of what it computes of this network and data.

    That of its program as it is traced on the first ``size`` training examples; of its source where
    the program does not tell it from another: where it calls back to Python, or cannot be traced.
    """
    measure = own_measure(fn)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, stats = jax.eval_shape(bench.network.init, key)
    batch = tuple(
        abstract(each, (len(each[:size]), *each.shape[1:])) for each in bench.dataset.train
    )

    def program(params, stats, batch, key):
        at = Trained(params, stats)
        return measure.arrays(bench.network, at, batch, key, options, budget())

    try:
        found = fingerprints.of_known_program(program, params, stats, batch, key)
    except Exception:  # of the user's function: what is wrong with it, measuring says
        found = None
    return measure._replace(code=found or fingerprints.of_text(source(fn)))


def source(fn: Callable) -> str:
    """The source of a function, or its compiled code, and the values that it is bound to."""
    if isinstance(fn, functools.partial):
        return f"{source(fn.func)} {fingerprints.text((fn.args, fn.keywords))}"
    closed = [cell.cell_contents for cell in getattr(fn, "__closure__", None) or ()]
    names = "__defaults__", "__kwdefaults__", "__dict__"
    bound = closed, [getattr(fn, name, None) for name in names]
    try:
        text = inspect.getsource(fn if inspect.isroutine(fn) else type(fn))
    except (OSError, TypeError):
        code = getattr(fn, "__code__", None)
        text = (
            repr(type(fn)) if code is None else f"{code.co_code} {code.co_names} {constants(code)}"
        )
    return f"{text} {fingerprints.text(bound)}"


def constants(code: CodeType) -> list[Any]:
    """The constants of compiled code, and of the functions inside of it."""
    return [constants(c) if isinstance(c, CodeType) else c for c in code.co_consts]


def fingerprint(
    config: RunConfig, bench: Workbench, digests: dict[str, str] | None = None
) -> Fingerprint:
    """What a run, and all of its group, is made from; ``digests`` are `contents`, if known."""
    recipe = unchecked_recipe(config, bench)
    return Fingerprint(
        **(digests or contents(bench)),
        optimizer=fingerprints.of_program(*step_of(recipe, hyper_arrays(config, bench.optimizers))),
        jax=jax.__version__,
        platform=jax.default_backend(),
    )
