"""What runs are made from, as digests: data, network and optimizer."""

from collections.abc import Iterator

import jax

from jaxsharp.core import fingerprints
from jaxsharp.runs.config import RunConfig
from jaxsharp.runs.fingerprint import Fingerprint
from jaxsharp.studies.recipes import hyper_arrays, step_of, unchecked_recipe
from jaxsharp.studies.workbench import EXAMPLES, Workbench
from jaxsharp.training.epochs import training_gradient


def contents(bench: Workbench) -> dict[str, str]:
    """Digests of a workbench's data and network by field of `Fingerprint`; nothing is computed.

    Of the network: initialization, both modes, the moments, and the gradient in training, which
    has the rules of custom derivatives, on `EXAMPLES` images. The number of classes is in that of
    the labels.
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
    batch = tuple(
        jax.ShapeDtypeStruct((EXAMPLES, *each.shape[1:]), each.dtype) for each in (images, labels)
    )
    yield fingerprints.of_program(network.init, key)
    gradient = training_gradient(network, network.loss.mean)
    yield fingerprints.of_program(gradient, params, stats, batch, key)
    try:
        yield fingerprints.of_program(network.moments, params, stats, stats, batch[0])
    except (TypeError, ValueError):  # a network may have none
        yield "no moments"
    for each in dict.fromkeys((network, bench.trained)):
        yield fingerprints.of_program(each.evaluate, params, stats, batch[0])
        yield fingerprints.of_program(each.forward, params, stats, batch[0], key)


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
