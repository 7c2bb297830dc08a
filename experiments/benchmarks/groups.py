"""The works on members that train together, beside PyTorch."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tasks
import torch_training
from measuring import Contender, Target, Work

from jaxsharp import data, networks, training
from jaxsharp.networks import Network
from jaxsharp.optimizers import OPTIMIZERS
from jaxsharp.studies.workbench import workbench
from jaxsharp.training import epochs
from jaxsharp.training.members import auto_width, fetch, member_mesh, place, stack

OURS, WITH_EVALUATION = "jaxsharp, training alone", "jaxsharp, epoch with evaluation"
CONTIGUOUS, CHANNELS_LAST = "PyTorch", "PyTorch, channels last"
# So small that rounding, which training amplifies at the kinks of ReLU, stays below the tolerance.
RATE, TOLERANCE = 1e-3, 1e-3


class Sizes(NamedTuple):
    """How large the works are; `smoke` takes other data, too."""

    smoke: bool = False
    batch_size: int = 128
    members: tuple[int, int] = (16, 4)
    steps: tuple[int, int] = (75, 30)
    models: tuple[str, str] = ("mlp_1", "simple_batch")
    saved_model: str = "mlp_1"
    saved_examples: int = 6000
    saved_epochs: int = 10
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)


SMOKE = Sizes(True, 8, (2, 2), (4, 4), ("mlp_1", "tiny_cnn"), "small_mlp", 200, 3, ("sgd",))


@dataclass(frozen=True, eq=False)
class Members:
    """Members of one group: task, network of the engine, first states, and their batches."""

    task: tasks.Task
    network: Network
    states: list[training.TrainState]
    keys: jax.Array
    orders: np.ndarray  # (members, steps, batch)

    def start(self, i):
        """The first weights of a member."""
        return self.states[i].params


def throughput_works(sizes: Sizes, data_dir: Path | None) -> list[Work]:
    """MLP_1 on CIFAR-10 or images of its shape, and SimpleBatch on FashionMNIST."""
    color = tasks.cifar10_shaped
    if data_dir is not None and not sizes.smoke:
        color = functools.cache(
            lambda smoke: data.load("cifar10", data_dir=data_dir, holdout=10_000)
        )
    return [
        _throughput_work(sizes, 0, color, 1.4, [CONTIGUOUS]),
        _throughput_work(sizes, 1, tasks.fashion_mnist, 0.95, [CONTIGUOUS, CHANNELS_LAST]),
    ]


def _throughput_work(sizes, which, dataset, bound, peers):
    model, members, steps = (s[which] for s in (sizes.models, sizes.members, sizes.steps))
    examples = members * steps * sizes.batch_size

    def setup():
        num = steps * sizes.batch_size
        task = tasks.make_task(model, dataset, sizes.smoke, num)
        network = task.network
        if model in networks.MODELS:
            network = workbench(dataset(sizes.smoke), model).trained
        return _members(task, network, members, steps, sizes.batch_size)

    def peer(name):
        def place(group):
            starts = [group.start(i) for i in range(members)]
            channels_last = name == CHANNELS_LAST
            args = group.task, starts, group.orders, RATE, channels_last
            return torch_training.torch_members(*args)

        prepare, read = torch_training.one_after_the_other, torch_training.read_losses
        return Contender(name, prepare, examples, ("torch",), place, read)

    def ours(name, evaluation):
        prepare = functools.partial(members_program, batch_size=sizes.batch_size)
        return Contender(
            name, functools.partial(prepare, evaluation=evaluation), examples, read=_read_losses
        )

    def throughput(own, *others):
        return np.min([other.seconds for other in others], axis=0) / own.seconds

    def share(whole, steps_alone):
        return 1 - steps_alone.seconds / whole.seconds

    text = f"throughput of {members} members / PyTorch's" + " at its faster" * (len(peers) > 1)
    targets = [
        Target(text, (OURS, *peers), throughput, ">=", bound),
        Target("share of evaluation in an epoch", (WITH_EVALUATION, OURS), share),
    ]
    contenders = [ours(OURS, False), ours(WITH_EVALUATION, True), *map(peer, peers)]
    return Work(f"{members} x {model}", setup, contenders, targets, _check, TOLERANCE)


def _members(task, network, num, steps, batch_size):
    """Members that begin with the seeds 0, 1, ..., and the batches that the engine will draw."""
    recipe = _recipe(network, batch_size)
    streams = [epochs.streams(seed) for seed in range(num)]
    hyper = {"learning_rate": jnp.float32(RATE)}
    states = [epochs.init_state(recipe, hyper, *network.init(s.init)) for s in streams]
    keys = jnp.stack([s.order for s in streams])
    orders = [jax.random.permutation(jax.random.fold_in(k, 0), steps * batch_size) for k in keys]
    orders = np.stack(orders).reshape(num, steps, batch_size)
    return Members(task, network, states, keys, orders)


def _recipe(network, batch_size):
    return training.Recipe(network, OPTIMIZERS["sgd"], batch_size, training.Stopping(1))


def members_program(group: Members, *, batch_size: int, evaluation: bool):
    """Return run() -> the states of all members after one epoch of the engine.

    As in `sweep.train`, members are placed on the devices, as many at a time as it chooses; from
    there they do not come back here. Without evaluation the network's evaluation mode is made to
    cost nothing.
    """
    network = group.network
    if not evaluation:
        network = network._replace(apply=functools.partial(_training_alone, network.apply))
    num, images, labels = len(group.keys), group.task.images, group.task.labels
    width = auto_width(num, 0)  # no network here is too large
    mesh = member_mesh(width)
    program = epochs.epoch_program(_recipe(network, batch_size), mesh)
    test = images[:batch_size], labels[:batch_size]
    shared = place(training.Data(images, (), *test), mesh, shared=True)
    hyper = {"learning_rate": jnp.full(num, RATE, jnp.float32)}
    rows = stack(group.states), hyper, group.keys, jnp.tile(labels, (num, 1))
    packs = []
    for start in range(0, num, width):
        pack = jax.tree.map(lambda leaf, start=start: leaf[start : start + width], rows)
        states, hyper, keys, own = (place(row, mesh) for row in pack)
        packs.append((states, hyper, keys, shared._replace(labels=own)))
    return lambda: [program(*pack)[0] for pack in packs]


def _training_alone(apply, params, stats, images, is_training):
    if is_training:
        return apply(params, stats, images, True)
    return jnp.zeros((len(images), 10)), stats


def _read_losses(group, states):
    """The loss of every member in training mode on the first batch of its order."""
    packs = [fetch((each.params, each.stats)) for each in states]
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *packs)

    def nth(i):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), together)

    return np.array([_loss(group, i, *nth(i)) for i in range(len(group.keys))]), None


def _loss(group, i, params, stats):
    chosen = group.orders[i][0]
    images, labels = group.task.images[chosen], group.task.labels[chosen]
    return float(
        networks.cross_entropy(group.task.network.apply(params, stats, images, True)[0], labels)
    )


def _check(group, examples, answer):
    """check(): the largest relative error of the losses of the first and the last member."""
    members = (0, len(group.keys) - 1)
    return max(abs(answer[i] / _reference_loss(group, i) - 1) for i in members), ""


@functools.cache
def _reference_loss(group, i):
    """The loss of a member after its steps in float64, by no code of the engine."""
    with jax.enable_x64(True):
        start = group.start(i), group.states[i].stats
        params, stats = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), start)

        @jax.jit
        def gradient(params, images, labels):
            def loss(params):
                logits, _ = group.task.network.apply(params, stats, images, True)
                return networks.cross_entropy(logits, labels)

            return jax.grad(loss)(params)

        for chosen in group.orders[i]:
            grads = gradient(params, group.task.images[chosen], group.task.labels[chosen])
            params = optax.tree.add_scale(params, -RATE, grads)
        return _loss(group, i, params, stats)
