"""Is a training loop of one's own, in plain JAX, faster than an epoch of a study?

    python experiments/benchmarks/plain_loop.py --out DIR

ResNet-20 with SGD and momentum on drawn images of 32 x 32 x 3: the study's compiled epoch, and the
loop that a researcher writes, with flax's own layers, optax, a jitted step a batch, and evaluation
in batches. Equal first weights, order and recipe, in turn. Ten minutes on two cores; `--smoke`
takes few small images.
"""

import functools
import itertools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from curvature import use_threads
from flax import nnx

MODEL, RATE, MOMENTUM = "resnet_20", 0.01, 0.9
EVALUATED = 500  # examples of one call
NOTES = """
- Time is that of one epoch: its steps, and evaluation of training and test data.
- error: relative difference of the training loss after the last epoch from the study's.
"""


class Block(nnx.Module):
    """Two convolutions with BatchNorm and a shortcut without parameters."""

    def __init__(self, before, after, stride, rngs):
        self.conv1, self.norm1 = _conv(before, after, stride, rngs), _norm(after, rngs)
        self.conv2, self.norm2 = _conv(after, after, 1, rngs), _norm(after, rngs)
        self.stride, self.more = stride, after - before

    def __call__(self, x):
        y = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :: self.stride, :: self.stride]
        return nnx.relu(y + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.more))))


class ResNet20(nnx.Module):
    """The network as one writes it with flax; names and shapes of parameters as in the study's."""

    def __init__(self, mean, std, rngs):
        self.mean, self.std = (tuple(map(float, x)) for x in (mean, std))
        self.conv1, self.norm1 = _conv(3, 16, 1, rngs), _norm(16, rngs)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        for i, (before, after) in enumerate(itertools.pairwise(widths), 1):
            setattr(self, f"block{i}", Block(before, after, 1 if before == after else 2, rngs))
        self.dense1 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1((x / 255 - jnp.array(self.mean)) / jnp.array(self.std))))
        for i in range(1, 10):
            x = getattr(self, f"block{i}")(x)
        return self.dense1(x.mean((1, 2)))


def _conv(before, after, stride, rngs):
    same = ((1, 1), (1, 1))
    return nnx.Conv(*(before, after, (3, 3), stride), padding=same, use_bias=False, rngs=rngs)


def _norm(features, rngs):
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


def plain_loop(
    *,
    out: Path = Path("runs/benchmarks-plain-loop"),
    steps: int = 20,
    batch_size: int = 128,
    side: int = 32,
    repeats: int = 5,
    threads: int = 2,
    smoke: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        out: Folder of the tables.
        steps: Steps of an epoch.
        batch_size: Examples of a step.
        side: Pixels of a side of an image, in three colors.
        repeats: Rounds in which both take turns.
        threads: Cores used.
        smoke: Few small images.
    """
    use_threads(threads)
    import tables
    from measuring import Row, Work, ratio

    if smoke:
        steps, batch_size, side = 2, 8, 8
    command = f"python experiments/benchmarks/plain_loop.py --repeats {repeats} --threads {threads}"
    sizes = f" --steps {steps} --batch-size {batch_size} --side {side}"
    command += " --smoke" if smoke else sizes
    times, losses = measured(drawn(steps * batch_size, side), batch_size, repeats)
    work = f"epoch of {MODEL}, {steps} batches of {batch_size}"
    error = abs(losses["plain loop"] / losses["study"] - 1)
    rows = [
        Row(
            *(work, name, steps * batch_size, None, each[0], np.array(each[1:]), float("nan")),
            *(error if name == "plain loop" else 0.0, ""),
        )
        for name, each in times.items()
    ]
    target = ratio("study's time / the plain loop's", "study", "plain loop", "<=", 1.05)
    options = {"command": command, "repeats": repeats, "cores": threads}
    options |= {"steps": steps, "batch_size": batch_size, "side": side}
    works = [Work(work, lambda: None, [], [target])]
    tables.write(out, rows, works, options, "A training loop of one's own", NOTES)
    print((out / "README.md").read_text())


def drawn(examples: int, side: int):
    """A data set of random images and labels."""
    from jaxsharp import data

    rng = np.random.default_rng(0)
    parts = [
        (rng.integers(0, 256, (n, side, side, 3), np.uint8), np.arange(n) % 10)
        for n in (examples, min(EVALUATED, examples))
    ]
    return data.from_arrays(*parts)


def measured(dataset, batch_size: int, repeats: int) -> tuple[dict, dict]:
    """Seconds of the epochs of both, the first with the compilation, and their last losses."""
    from jaxsharp.networks import models
    from jaxsharp.runs import RunConfig, Settings
    from jaxsharp.studies.recipes import beginning, hyper_arrays, make_recipe
    from jaxsharp.studies.workbench import workbench
    from jaxsharp.training.epochs import Data, epoch_program, streams
    from jaxsharp.training.members import stack

    bench = workbench(dataset, MODEL)
    epochs = repeats + 1
    settings = Settings(
        epochs=epochs, batch_size=batch_size, learning_rate=RATE, momentum=MOMENTUM, loss_below=None
    )
    config = RunConfig("drawn", MODEL, "heavy_ball", "none", 0, settings).resolved()
    recipe = make_recipe(config, bench)
    program, order = epoch_program(recipe), streams(0).order
    first = beginning(recipe, config, bench)
    states, hyper = stack([(first, hyper_arrays(config, bench.optimizers))])
    train, test = dataset.train, dataset.test
    shared = Data(train.images, train.labels[None], test.images, test.labels)
    shared = jax.device_put(shared)
    moments = models.channel_moments(train.images, 255)
    loop = Loop(ResNet20(*moments, nnx.Rngs(0)), first, dataset, batch_size)
    times, losses = {"study": [], "plain loop": []}, {}
    for epoch in range(epochs):
        start = time.perf_counter()
        states, metrics = jax.block_until_ready(program(states, hyper, order[None], shared))
        times["study"].append(time.perf_counter() - start)
        losses["study"] = float(metrics.train_loss[0])
        places = np.asarray(
            jax.random.permutation(jax.random.fold_in(order, epoch), len(train.labels))
        )
        start = time.perf_counter()
        losses["plain loop"] = loop.epoch(places)
        times["plain loop"].append(time.perf_counter() - start)
    return times, losses


class Loop:
    """Training as a researcher writes it: a jitted step, a loop over batches."""

    def __init__(self, model, first, dataset, batch_size):
        self.dataset, self.batch_size = dataset, batch_size
        graph, _, _ = nnx.split(model, nnx.Param, nnx.BatchStat)
        self.params, self.stats = jax.tree.map(jnp.copy, (first.params, first.stats))
        optimizer = optax.sgd(RATE, MOMENTUM)
        self.opt_state = optimizer.init(self.params)

        def outputs(params, stats, images, train):
            model = nnx.merge(graph, nnx.State(params), nnx.State(stats))
            (model.train if train else model.eval)()
            found = model(images)
            return found, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        def loss(params, stats, images, labels, train):
            found, stats = outputs(params, stats, images, train)
            return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean(), stats

        @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(params, stats, opt_state, images, labels):
            grads, stats = jax.grad(loss, has_aux=True)(params, stats, images, labels, True)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), stats, opt_state

        self.step = step
        self.evaluate = jax.jit(lambda *given: loss(*given, False)[0])

    def epoch(self, order: np.ndarray) -> float:
        """One epoch; the loss of the training data."""
        train, size = self.dataset.train, self.batch_size
        state = self.params, self.stats, self.opt_state
        for places in order.reshape(-1, size):
            state = self.step(*state, train.images[places], train.labels[places])
        self.params, self.stats, self.opt_state = state
        losses = [self._loss(part) for part in (train, self.dataset.test)]
        return losses[0]

    def _loss(self, part) -> float:
        total = 0.0
        for begin in range(0, len(part.labels), EVALUATED):
            batch = [x[begin : begin + EVALUATED] for x in (part.images, part.labels)]
            total += len(batch[1]) * float(self.evaluate(self.params, self.stats, *batch))
        return total / len(part.labels)


if __name__ == "__main__":
    tyro.cli(plain_loop)
