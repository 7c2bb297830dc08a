"""Trajectories of 1000 steps, stored by reference/make_trajectories.py; how others differ."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from entries import BASES, RHO, SHARP, STEPS, entries, key, rates_of

from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE, amsbound

STORED = dict(np.load(problems.FILE, allow_pickle=False))
FACTORIES = OPTIMIZERS | {"amsbound": amsbound}


def make(sharp, base, name):
    factory, options = BASES[base]
    tx = FACTORIES[factory](**options, **rates_of(base, name))
    if sharp is None:
        return tx
    wrapper, options = SHARP[sharp]
    if wrapper == "asam" and "adaptive" not in options:
        mask = {n: problems.is_weight(n) for n in problems.PROBLEMS[name].params}
        options = options | {"adaptive": mask}
    return SHARPNESS_AWARE[wrapper](tx, RHO[name], **options)


def run(tx, problem, steps):
    """Vectors after every step; one compiled scan in the present default precision."""
    params, batch = jax.tree.map(lambda x: jnp.asarray(x, float), (problem.params, problem.batch))

    def grad(params, batch=batch):
        return jax.grad(lambda p: problem.loss(p, batch, jnp))(params)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grad(params), state, params, grad_fn=grad, batch=batch)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([jnp.ravel(params[n]) for n in problem.params])

    @jax.jit
    def loop(params):
        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]

    return np.asarray(loop(params), np.float64)


@functools.cache
def ours(sharp, base, name):
    """The stored steps in float64."""
    with jax.enable_x64(True):
        found = run(make(sharp, base, name), problems.PROBLEMS[name], STEPS[-1])
    return found[np.array(STEPS) - 1]


def distances(found, expected):
    """Relative to the norm of each vector: single entries cross zero."""
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


every_entry = pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: key(*entry))


def test_the_stored_file_holds_the_entries():
    names = {name for name in STORED if not name.startswith("differing/")}
    assert names == {key(*entry) for entry in entries()}


@pytest.mark.slow
@every_entry
def test_float64_follows_the_stored_trajectory_for_1000_steps(entry):
    assert max(distances(ours(*entry), STORED[key(*entry)])) < 1e-10


@pytest.mark.slow
@every_entry
def test_float32_follows_the_stored_trajectory_for_100_steps(entry):
    found = run(make(*entry), problems.PROBLEMS[entry[-1]], 100)
    early = [i for i, step in enumerate(STEPS) if step <= 100]
    found = found[np.array(STEPS)[early] - 1]
    assert max(distances(found, STORED[key(*entry)][early])) < 1e-5


def gaps(name, sharp, base):
    """How far a public optimizer is from ours on the network, at the stored steps."""
    found = distances(STORED[f"differing/{name}"], ours(sharp, base, "network"))
    return dict(zip(STEPS, found, strict=True))


def test_adashift_that_starts_with_an_empty_window():
    # The widely copied PyTorch code; we follow the paper: all of the window counts at step 11.
    # Nothing moved before, so the gradients are equal and the first moment is any one of them. What
    # leaves their average was never in it: (1 - b1^10) / (1 + ... + b1^9) = 1 - b1 is left.
    start = problems.vector(problems.PROBLEMS["network"].params)
    step_11 = STEPS.index(11)
    theirs = STORED["differing/adashift"][step_11] - start
    first = ours(None, "adashift", "network")[step_11] - start
    np.testing.assert_allclose(theirs, (1 - 0.9) * first, rtol=1e-9)
    assert gaps("adashift", None, "adashift")[20] > 5e-3


def test_sam_whose_gradient_norm_is_float32():
    # pytorch-optimizer 4.1.0; its other digits are ours, and the entry has its norm in float64.
    found = gaps("sam", "sam", "heavy_ball")
    assert 1e-12 < found[1] < 1e-10
    assert 1e-10 < found[1000] < 1e-8


@pytest.mark.slow
def test_look_sam_with_norms_per_tensor():
    # pytorch-optimizer 4.1.0; we follow the paper: norms of the whole gradient.
    found = gaps("look_sam", "look_sam", "heavy_ball")
    assert found[1] < 1e-10
    assert found[2] > 3e-3
    assert found[1000] > 0.2
    # On one tensor all that is left is 1e-8 added to a norm, and norms in float32.
    problem = problems.one_tensor(problems.PROBLEMS["network"])
    with jax.enable_x64(True):
        one_tensor = run(make("look_sam", "heavy_ball", "network"), problem, STEPS[-1])
    one_tensor = one_tensor[np.array(STEPS) - 1]
    assert max(distances(STORED["differing/look_sam/one_tensor"], one_tensor)) < 1e-6
    # Ours does not look at how the parameters are cut into tensors.
    assert max(distances(ours("look_sam", "heavy_ball", "network"), one_tensor)) < 1e-12


def test_friendly_sam_whose_average_starts_at_the_first_gradient():
    # The authors' code, here as in pytorch-optimizer 4.1.0; we follow Algorithm 1.
    found = gaps("friendly_sam", "friendly_sam", "heavy_ball")
    assert found[1] < 1e-10  # the first direction is that of the gradient for both
    assert found[2] > 5e-6
    assert found[10] > 5e-3


def test_adaptive_sam_without_eta_on_all_parameters():
    # SAM(adaptive=True) in pytorch-optimizer is the entry asam_everywhere; we follow the authors
    # of ASAM by default: eta = 0.01, and biases are moved as in SAM.
    everywhere = STORED["network/asam_everywhere/heavy_ball"]
    assert distances(everywhere, ours("asam", "heavy_ball", "network"))[-1] > 5e-3


def test_adagrad_of_optax_starts_its_sum_at_a_tenth():
    # We follow PyTorch: a sum from 0, and eps outside the root.
    problem = problems.PROBLEMS["network"]
    rate = rates_of("adagrad", "network")["learning_rate"]
    with jax.enable_x64(True):
        theirs = run(optax.adagrad(rate), problem, 100)
        same = run(optax.adagrad(rate, initial_accumulator_value=0.0, eps=1e-40), problem, 100)
    start, found = problems.vector(problem.params), ours(None, "adagrad", "network")
    assert np.linalg.norm(theirs[0] - start) < 0.6 * np.linalg.norm(found[0] - start)
    step_100 = STEPS.index(100)
    assert np.linalg.norm(same[99] - found[step_100]) < 1e-6 * np.linalg.norm(found[step_100])


def test_sam_of_optax_is_ours_but_nan_at_a_zero_gradient():
    rho, rate = RHO["network"], rates_of("heavy_ball", "network")["learning_rate"]
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    theirs = optax.contrib.sam(optax.sgd(rate, momentum=0.8), ascent, opaque_mode=True)

    def update(grads, state, params, *, grad_fn, batch):
        return theirs.update(grads, state, params, grad_fn=lambda params, _: grad_fn(params))

    with jax.enable_x64(True):
        tx = optax.GradientTransformationExtraArgs(theirs.init, update)
        found = run(tx, problems.PROBLEMS["network"], STEPS[-1])[np.array(STEPS) - 1]
    assert max(distances(found, ours("sam", "heavy_ball", "network"))) < 1e-12
    zero = {"weight": jnp.zeros(2)}
    for tx, expected in ((theirs, np.nan), (make("sam", "heavy_ball", "network"), 0.0)):
        updates, _ = tx.update(zero, tx.init(zero), zero, grad_fn=lambda params, i=0: params)
        np.testing.assert_array_equal(updates["weight"], expected)
