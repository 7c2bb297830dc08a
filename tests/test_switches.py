"""JAX's own switches that users set: everything is traced, and runs, under each of them.

What strict promotion refuses it refuses while a program is traced, so that nothing is compiled.
"""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxsharp import curvature, measures, networks, optimizers
from jaxsharp.core.memory import budget
from jaxsharp.measures import neighbourhood
from jaxsharp.measures.minimum import sharpness
from jaxsharp.measures.spectrum import eigenvalues
from jaxsharp.networks import models
from jaxsharp.training import epochs
from jaxsharp.training.averages import Averaging
from jaxsharp.training.regimes import SCHEDULES, Regime
from tests import cases, tinynets

KEY = jax.random.key(0)
IMAGES = jax.ShapeDtypeStruct((16, 6, 6, 2), jnp.uint8)
LABELS = jax.ShapeDtypeStruct((16,), jnp.int32)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def traced_epoch(network, optimizer, **how):
    recipe = epochs.Recipe(network, optimizer, 4, epochs.Stopping(2, 0.1, 0.01), **how)
    data = epochs.Data(IMAGES, LABELS, IMAGES, LABELS)

    def trained(key, learning_rate, data):
        state = epochs.init_state(recipe, {"learning_rate": learning_rate}, *network.init(key))
        hyper = {"learning_rate": learning_rate}
        return epochs.train_epoch(recipe, state, hyper, key, data, budget())

    rate = jax.ShapeDtypeStruct((), jnp.float32)
    _, metrics = jax.eval_shape(trained, KEY, rate, data)
    assert metrics.train_loss.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "simple_batch", "resnet_20", "vgg_11", "vit", "gpt"])
def test_networks_are_traced(name):
    if name == "gpt":
        network = networks.from_nnx(lambda rngs: models.Chain(*gpt()((8,), 5, "auto", rngs)))
        inputs, targets = (jax.ShapeDtypeStruct((4, 8), jnp.int32) for _ in range(2))
    else:
        network = models.load(name, tinynets.tiny_dataset(num=6, shape=(32, 32, 3)))
        inputs = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
        targets = jax.ShapeDtypeStruct((4,), jnp.int32)
    params, stats = jax.eval_shape(network.init, KEY)
    gradient = epochs.training_gradient(network, network.loss.mean)
    _, grads = jax.eval_shape(gradient, params, stats, (inputs, targets), KEY)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    jax.eval_shape(network.evaluate, params, stats, inputs)


def gpt():
    return models.MODELS["gpt"].body


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_optimizers_are_traced(name):
    traced_epoch(tinynets.mlp(), optimizers.OPTIMIZERS[name])


@pytest.mark.parametrize("name", optimizers.SHARPNESS_AWARE)
def test_sharpness_aware_variants_are_traced(name):
    variant = optimizers.SHARPNESS_AWARE[name]
    groups = {"m": 2} if name == "m_sam" else {}
    traced_epoch(
        tinynets.cnn(),
        lambda learning_rate: variant(optimizers.adam(learning_rate), rho=0.1, **groups),
    )


@pytest.mark.parametrize(
    "how",
    [
        *({"regime": Regime(schedule=name, warmup_epochs=1)} for name in SCHEDULES),
        {"regime": Regime(augment="crop_flip_cutout", mixup=0.2, label_smoothing=0.1)},
        *({"averaging": Averaging(kind)} for kind in ("ema", "swa")),
    ],
    ids=str,
)
def test_recipes_are_traced(how):
    traced_epoch(tinynets.cnn(), optimizers.sgd, **how)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arrays", "static"),
    [
        (eigenvalues.eigenvalues, (0.1, 50, None, 2, 0.0)),
        (neighbourhood.perturbed, (4, True, False, None, None)),
        (neighbourhood.perturbed, (4, False, True, None, None)),
    ],
    ids=["top eigenvalue", "random perturbation", "statistics recomputed"],
)
def test_measures_are_traced(arrays, static):
    network = tinynets.cnn()
    params, stats = jax.eval_shape(network.init, KEY)
    more = (1.0,) if arrays is neighbourhood.perturbed else ()
    static = (network, *static, budget())
    jax.eval_shape(
        lambda *arguments: arrays(*static, *arguments, *more),
        *(params, stats, (IMAGES, LABELS), KEY),
    )


@pytest.mark.slow
def test_exact_traces_are_traced():
    network = tinynets.cnn()
    params, stats = jax.eval_shape(network.init, KEY)
    jax.eval_shape(partial(sharpness.group_traces, network, None, budget()), params, stats, IMAGES)


METHODS = {
    "top_eigenpairs": {"k": 1},
    "bottom_eigenpairs": {"k": 1},
    "extreme_eigenpairs": {"num_top": 1, "num_bottom": 1},
    "spectral_density": {"num_steps": 4},
    "hutchinson": {},
    "diagonal": {},
    "frobenius_norm": {},
    "hutchpp": {},
    "xtrace": {},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "double"),
    [*((name, False) for name in METHODS), ("top_eigenpairs", True), ("hutchinson", True)],
)
def test_methods_are_traced(name, double):
    with jax.enable_x64(double):
        case = cases.make_case("relu_mlp")
        method = getattr(curvature, name)

        def found(params, batch):
            product = curvature.hessian(case.loss, params, batch, chunk_size=4)
            return method(product, params, key=KEY, **METHODS[name])

        jax.eval_shape(found, case.params, case.batch)


@pytest.mark.slow
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", ["ggn", "fisher", "monte_carlo_fisher", "empirical_fisher"])
def test_products_are_traced(name, low):
    case = cases.make_case("relu_mlp")
    params = case.params
    if low:
        params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, case.batch["x"]))
        case.batch["x"] = x
    functions = {
        "ggn": (case.apply, lambda out, batch: networks.cross_entropy(out, batch["y"])),
        "empirical_fisher": (lambda p, b: networks.cross_entropy(case.apply(p, b), b["y"]),),
    }
    given = functions.get(name, (case.apply, curvature.categorical))
    key = {"key": KEY} if name == "monte_carlo_fisher" else {}
    make = getattr(curvature, name)
    found = jax.eval_shape(
        lambda p, b: make(*given, p, b, chunk_size=4, **key)(p), params, case.batch
    )
    assert jax.tree.map(lambda a: a.dtype, found) == jax.tree.map(lambda a: a.dtype, params)


@pytest.mark.slow
def test_measurements_move_numbers_whatever_the_guard_of_a_training_loop_says():
    def outputs(params, stats, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    def loss(params, batch):
        return networks.cross_entropy(outputs(params, {}, batch[0]), batch[1])

    network = networks.Network(lambda key: None, lambda p, s, x, train: (outputs(p, s, x), s))
    params = {"a": jnp.eye(4, 3) + 0.1, "b": jnp.eye(3) - 0.2}
    batch = jnp.arange(48.0).reshape(12, 4) / 48, jnp.arange(12) % 3
    with jax.transfer_guard("disallow"):
        hessian = curvature.hessian(loss, params, batch, chunk_size=5)
        top = curvature.top_eigenpairs(hessian, params, k=1, key=KEY)
        trace = curvature.hutchinson(hessian, params, key=KEY, rtol=0.1)
        sketched = curvature.xtrace(hessian, params, key=KEY, rtol=0.1)
        least = measures.minimum_sharpness(network, params, {}, batch)
        rise = measures.random_perturbation(network, params, {}, batch, KEY, num_perturbations=4)
    full = curvature.exact_traces(outputs, params, {}, batch[0])
    true = float(full["a"] + full["b"])
    assert abs(trace.mean - true) <= 5 * trace.stderr and top.values[0] < true
    assert abs(sketched.mean - true) <= 5 * sketched.stderr + 1e-4 * true
    assert 0 < least.value <= true + 1e-6 and rise.value > 0


SWITCHES = {
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_ENABLE_CHECKS": "1",
    "JAX_DEBUG_NANS": "1",
    "PYTHONOPTIMIZE": "2",
}


@pytest.mark.slow
def test_commands_run_under_all_switches_at_once(tmp_path):
    grid = "--optimizers adam --sam sam --seeds 2 --num-perturbations 4"
    options = "--epochs 1 --loss-below none --train-size 40 --batch-size 20 --quiet"
    study, run = tmp_path / "study", tmp_path / "run"
    for arguments in (
        f"study {grid} {options} --out {study}",
        f"train {options} --out {run}",
        f"sharpness --quiet --num-perturbations 4 {run}",
    ):
        command = [sys.executable, "-m", "jaxsharp", *arguments.split()]
        done = subprocess.run(
            command, env=os.environ | SWITCHES, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), arguments
    assert (study / "summary.csv").exists() and (run / "sharpness.csv").exists()
