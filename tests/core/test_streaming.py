"""Arrays that stay on the host: the bits of those on the device, read ahead, never all there."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsharp.core import Budget, mean_over_chunks, num_examples, streaming
from jaxsharp.core.chunks import map_examples
from jaxsharp.core.memory import affordable_chunk, budget, held
from jaxsharp.core.programs import every_program
from jaxsharp.core.streaming import first, following, rows, streamed

N = 24


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(N, 3, 2)).astype(np.float32)


@pytest.fixture
def reads(monkeypatch):
    """Each part that was asked for, and whether a thread had begun with it."""
    found, read = [], streaming._read

    def noted(number, now, then):
        key = streaming._key(number, now)
        found.append((key[1:], key in streaming._ahead))
        return read(number, now, then)

    monkeypatch.setattr(streaming, "_read", noted)
    return found


def scaled_mean(scale, batch):
    return jnp.mean(jnp.sin(scale * batch[0]) + batch[1][:, None, None], axis=0)


@pytest.mark.slow
def test_what_is_read_is_what_is_there(array):
    stands = streamed(array)
    assert (stands.shape, stands.dtype, stands.ndim, len(stands)) == ((N, 3, 2), np.float32, 3, N)
    chosen = np.array([[4, 0], [22, 4]])
    np.testing.assert_array_equal(jax.jit(rows)(stands, chosen), array[chosen])
    np.testing.assert_array_equal(jax.jit(lambda x: x[5:])(stands), array[5:])
    for size in (7, None, N + 1):
        cut = jax.jit(lambda x, size=size: first(x, size)[:])
        np.testing.assert_array_equal(cut(stands), array[:size])
    with pytest.raises(Exception, match="index -1 of examples"):
        jax.block_until_ready(stands[np.array([2, -1])])
    np.testing.assert_array_equal(stands.part(1, 4, step=5), array[1:21:5])
    side_by_side = jax.vmap(lambda begin: stands.part(begin, 3, step=2))(jnp.array([0, 9]))
    np.testing.assert_array_equal(side_by_side, np.stack([array[0:6:2], array[9:15:2]]))


@pytest.mark.parametrize("size", [4, 24, 1, None, 9])
@pytest.mark.parametrize("order", ["C", "F"])
def test_means_have_the_bits_of_the_array(array, size, order):
    array, labels = np.asarray(array, order=order), np.arange(N, dtype=np.float32)
    means = jax.jit(
        lambda batch: mean_over_chunks(lambda chunk: scaled_mean(2.0, chunk), batch, size)
    )
    each = jax.jit(lambda batch: map_examples(lambda x: jnp.sum(jnp.sin(x[0])) * x[1], batch, size))
    for fn in (means, each):
        whole, parts = (fn((x, labels)) for x in (array, streamed(array)))
        np.testing.assert_array_equal(whole, parts)
    expected = np.mean(np.sin(2.0 * array) + labels[:, None, None], 0)
    np.testing.assert_allclose(means((streamed(array), labels)), expected, rtol=1e-5)


@pytest.mark.slow
def test_derivatives_pass_by_what_is_read(array):
    """Linearized, and along a direction, the loop asks for the same examples."""
    labels, stands = np.ones(N, np.float32), streamed(array)

    @jax.jit
    def slope(batch):
        fn = lambda scale: mean_over_chunks(  # noqa: E731
            lambda chunk: jnp.sum(scaled_mean(scale, chunk)), batch, 4
        )
        _, push = jax.linearize(jax.grad(fn), 2.0)
        return push(1.0), jax.jvp(fn, (2.0,), (1.0,))

    np.testing.assert_array_equal(
        *(np.stack(jax.tree.leaves(slope((x, labels)))) for x in (array, stands))
    )


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (5, [(0, 5, 1), (5, 10, 1), (10, 15, 1), (15, 20, 1), (20, 24, 1)]),  # the rest by itself
        (8, [(0, 24, 3), (1, 25, 3), (2, 26, 3)]),
    ],
)
def test_a_part_is_read_once_for_members_and_ahead_of_its_use(array, reads, size, parts):
    """Also inside of a branch that vmap makes a selection, which batches all that it is given."""
    labels = np.arange(N, dtype=np.float32)

    @jax.jit
    def means(active, scales, batch):
        def member(active, scale):
            mean = lambda: mean_over_chunks(lambda c: scaled_mean(scale, c), batch, size)  # noqa: E731
            return jax.lax.cond(active, mean, lambda: jnp.zeros((3, 2)))

        return jax.vmap(member)(active, scales)

    arguments = np.ones(3, bool), np.arange(3, dtype=np.float32)
    jax.block_until_ready(means(*arguments, (streamed(array), labels)))
    assert sorted(part for part, _ in reads) == parts
    alone = [parts[0], *([parts[-1]] if size == 5 else [])]
    assert all(ahead == (part not in alone) for part, ahead in reads)


def test_batches_are_read_ahead_in_the_order_of_a_scan(array, reads):
    order = jnp.asarray(np.random.default_rng(1).permutation(N)[:20].reshape(5, 4))

    @jax.jit
    def sums(x, order):
        take = lambda total, at: (total + rows(x, *at).sum(), None)  # noqa: E731
        return jax.lax.scan(take, 0.0, (order, following(order)))[0]

    np.testing.assert_allclose(sums(streamed(array), order), array[order.ravel()].sum(), rtol=1e-5)
    assert [ahead for _, ahead in reads] == [False, True, True, True, True]


@pytest.mark.slow
def test_one_program_serves_all_arrays_of_a_shape_and_keeps_none(array):
    total = jax.jit(lambda x: mean_over_chunks(lambda chunk: chunk.sum() / len(chunk), x, 5))
    nothing, other = 0 * array, 3 * array
    values = [total(streamed(each)) for each in (array, nothing)]
    stands = streamed(other)
    for stand in (stands, first(stands, None)):
        np.testing.assert_allclose(total(stand), 3 * array.sum() / N, rtol=1e-5)
    assert total._cache_size() == 1 and values[1] == 0 != values[0]
    gc.collect()
    known = len(streaming._arrays)
    del other, stands, stand
    gc.collect()
    assert len(streaming._arrays) == known - 1


def test_no_array_of_the_size_of_the_data_is_in_a_program(array):
    def mean(x):
        return mean_over_chunks(lambda chunk: jnp.mean(jnp.sin(chunk)), x, 4)

    def sizes(x):
        programs = every_program(jax.make_jaxpr(mean)(x).jaxpr)
        every = [v for p in programs for v in (*p.invars, *(v for e in p.eqns for v in e.outvars))]
        return max(np.prod(v.aval.shape) for v in every)

    assert sizes(array) == array.size and sizes(streamed(array)) == 4 * 3 * 2
    compiled = jax.jit(mean).lower(streamed(array)).compile().memory_analysis()
    assert compiled.argument_size_in_bytes == 4


def test_an_array_is_streamed_where_the_device_has_no_room(array):
    roomy, tight = (Budget(1, 1, 1, False, size) for size in (2 * array.nbytes, array.nbytes))
    inputs = (array, array)
    assert held(inputs, roomy) is inputs and held(inputs, budget()) is inputs  # the CPU maps
    assert all(map(streaming.is_streamed, held(inputs, tight)))
    assert tight.divided(3).data_bytes == tight.data_bytes


def test_a_chunk_has_room_for_its_examples():
    """Of a function that writes little it is not what is written that fills the memory."""
    batch = jax.ShapeDtypeStruct((4096, 1000), np.float32)
    memory = Budget(400_000, 1, 1, False)
    assert affordable_chunk(lambda x: x @ np.ones(1000, np.float32), batch, memory) <= 100


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.ones((), np.float32), r"shape \(\) cannot be streamed"),
        (np.zeros((0, 3), np.float32), "at least one example"),
        (np.zeros(3), "float64 cannot be streamed; its type must be one of 32 bits or less"),
    ],
)
def test_what_cannot_be_streamed_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        streamed(given)


def test_lengths_that_disagree_and_functions_of_all_inputs_are_refused(array):
    with pytest.raises(ValueError, match=r"lengths \[22, 24\]; they must be equal"):
        num_examples((streamed(array), np.zeros(22)))
    with pytest.raises(ValueError, match="do not fit the device and are streamed"):
        jnp.sin(streamed(array))


def test_an_array_that_is_gone_and_two_side_by_side_are_no_numbers(array):
    stands, other = streamed(array), streamed(array.copy())  # which nobody keeps
    both = streaming.Streamed(np.stack([stands.number] * 2), stands.shape, stands.dtype)
    with pytest.raises(Exception, match="gone; keep it"):
        jax.block_until_ready(other[:2])
    kept = array.copy()
    both.number[1] = streamed(kept).number
    read = jax.vmap(lambda number: streaming.Streamed(number, both.shape, both.dtype)[:2])
    with pytest.raises(Exception, match="several arrays are streamed side by side"):
        jax.block_until_ready(read(both.number))


def test_without_the_cpu_of_jax_nothing_is_streamed(array, monkeypatch):
    def none(backend):
        raise RuntimeError(backend)

    monkeypatch.setattr(jax, "local_devices", none)
    with pytest.raises(ValueError, match="add cpu to JAX_PLATFORMS"):
        streamed(array)
