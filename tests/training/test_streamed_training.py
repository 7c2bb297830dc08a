"""Training on inputs that the device does not hold: the bits of training on those that it does."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import budget, streaming
from jaxsharp.core.programs import every_program
from jaxsharp.core.streaming import streamed
from jaxsharp.training.averages import Averaging
from jaxsharp.training.epochs import epoch_program
from jaxsharp.training.regimes import Regime
from tests.tinynets import cnn, mlp, tiny_dataset
from tests.training.test_epochs import data_of, recipe_of, start

DATASET = tiny_dataset(num=43)  # three are left of batches of five


def both(recipe, sam, **memory):
    """Members after two epochs on held and on streamed inputs; the program, its arguments."""
    hypers = [{"learning_rate": rate, **({"rho": 0.2} if sam else {})} for rate in (0.05, 0.1)]
    states, hyper, order = start(recipe, hypers, [3, 4])
    held = data_of(DATASET, 2)
    images, test_images = (streamed(split.images) for split in (DATASET.train, DATASET.test))
    program = epoch_program(recipe, None, replace(budget(), **{"chunk_bytes": 10**5, **memory}))
    ends, sets = [], (held, held._replace(images=images, test_images=test_images))
    for data in sets:
        after, _ = program(states, hyper, order, data)
        ends.append(jax.device_get(program(after, hyper, order, data)))
    return ends, program, (states, hyper, order, sets)


def check_same(held, from_host):
    """The same bits, of something that has changed."""
    for one, other in zip(*map(jax.tree.leaves, (held, from_host)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(held[1].train_loss).all() and (held[0].epoch == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [False, True])
def test_the_same_bits_with_sam_augmentation_and_a_short_last_batch(vmapped):
    recipe = recipe_of(cnn(), "sgd", "sam")
    recipe = recipe._replace(regime=Regime(augment="crop_flip", last_batch="keep"))
    check_same(*both(recipe, True, vmapped=vmapped)[0])


@pytest.mark.slow
def test_averages_have_the_same_statistics():
    recipe = recipe_of(cnn())._replace(averaging=Averaging("swa", after=1))
    check_same(*both(recipe, False)[0])


@pytest.mark.slow
def test_no_array_of_the_size_of_the_inputs_is_in_the_program_and_batches_are_read_ahead(
    monkeypatch,
):
    reads, read = [], streaming._read

    def noted(number, now, then):
        if isinstance(now, np.ndarray):
            reads.append(streaming._key(number, now) in streaming._ahead)
        return read(number, now, then)

    monkeypatch.setattr(streaming, "_read", noted)
    recipe = recipe_of(mlp())
    ends, program, (states, hyper, order, (held, from_host)) = both(
        recipe, False, chunk_bytes=20_000
    )
    check_same(*ends)
    assert reads == [False, *[True] * 7] * 4  # of two members and epochs
    jaxpr = jax.make_jaxpr(program)(states, hyper, order, from_host)
    shapes = {
        tuple(variable.aval.shape)
        for each in every_program(jaxpr.jaxpr)
        for variable in (*each.invars, *(v for e in each.eqns for v in e.outvars))
    }
    one = DATASET.train.images.shape[1:]
    assert (5, *one) in shapes and DATASET.train.images.shape not in shapes
    assert max(np.prod(shape) for shape in shapes if shape[-3:] == one) < held.images.size / 2
    given = program.lower(states, hyper, order, held).compile().memory_analysis()
    taken = program.lower(states, hyper, order, from_host).compile().memory_analysis()
    inputs = DATASET.train.images.nbytes + DATASET.test.images.nbytes
    assert given.argument_size_in_bytes - taken.argument_size_in_bytes > inputs - 64
    assert jnp.asarray(held.images).nbytes > 64
