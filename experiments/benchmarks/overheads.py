"""The works on what a sweep does beside training: saving and bookkeeping, compiling."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from groups import Sizes
from jax.sharding import Mesh
from measuring import Row, Target, Work

from jaxsharp import data, training
from jaxsharp.core import budget
from jaxsharp.runs import RunConfig, Settings, claims
from jaxsharp.studies import sweep
from jaxsharp.studies.recipes import hyper_parameters, make_recipe
from jaxsharp.studies.workbench import Workbench, shared_data, workbench
from jaxsharp.training import epochs
from jaxsharp.training.members import auto_width, member_mesh, place, stack

CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def saving_rows(sizes: Sizes, rounds: int) -> tuple[Work, list[Row]]:
    """Wall time of a group's epochs beside that of the compiled program's calls alone.

    The first epoch, in which the program is compiled, is left out. The calls are those of the group
    that is saved once: writing beside the training may slow the calls, which then counts as lost.
    """
    dataset = "digits" if sizes.smoke else "fashion_mnist"
    model, epochs = sizes.saved_model, sizes.saved_epochs
    settings = Settings(
        epochs=epochs + 1, train_size=sizes.saved_examples, batch_size=sizes.batch_size
    )
    bench = workbench(data.load(dataset, train_size=settings.train_size), model)
    configs = [RunConfig(dataset, model, "sgd", "none", seed, settings) for seed in range(4)]
    times = {name: [] for name in ("every epoch", "at the end", "calls")}
    for _ in range(rounds):
        times["every epoch"].append(_timed_group(configs, bench, 1)[0])
        wall, calls = _timed_group(configs, bench, epochs + 1)
        times["at the end"].append(wall)
        times["calls"].append(calls)
    name, examples = f"bookkeeping {model}", 4 * epochs * sizes.saved_examples
    rows = [_row(name, kind, examples, seconds) for kind, seconds in times.items()]
    targets = [
        Target(f"share lost, saved {when}", (when, "calls"), _lost, "<=", 0.05)
        for when in ("every epoch", "at the end")
    ]
    return Work(name, lambda: None, [], targets), rows


def _lost(wall, calls):
    return 1 - calls.seconds / wall.seconds


def _timed_group(configs, bench, save_every):
    """Seconds of all epochs but the first, and of the program's calls in them."""
    calls, starts = [], []
    original = sweep.epoch_program

    def timed_program(*args):
        program = original(*args)

        def run(*args):
            start = time.perf_counter()
            result = jax.block_until_ready(program(*args))
            calls.append(time.perf_counter() - start)
            return result

        return run

    sweep.epoch_program = timed_program
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / config.name for config in configs]
            for config, path in zip(configs, paths, strict=True):
                claims.claim_run(path, config)

            def after_epoch(progress):
                starts.append(time.perf_counter())

            sweep.train(configs, paths, bench, save_every=save_every, report=after_epoch)
            end = time.perf_counter()
    finally:
        sweep.epoch_program = original
    return end - starts[0], sum(calls[1:])


def _row(work, contender, examples, seconds):
    times = np.array(seconds)
    return Row(work, contender, examples, None, times[0], times, float("nan"), float("nan"), "")


def compile_rows(sizes: Sizes, script: str, arguments: list[str]) -> tuple[Work, list[Row]]:
    """Seconds to trace, lower and compile a grid's programs, with an empty cache and a full one.

    Each in a process of its own, which runs ``script`` with arguments that make it print
    `compile_seconds`.
    """
    name, times = f"compiling {_compiled(sizes)[1]}", []
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, **CACHE, "JAX_COMPILATION_CACHE_DIR": cache}
        for _ in range(2):
            command = [sys.executable, script, *arguments]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            times.append(json.loads(done.stdout.splitlines()[-1])["seconds"])
    programs = 2 * len(sizes.optimizers)
    kinds = (f"{programs} programs, empty cache", f"{programs} programs, full cache")
    rows = [_row(name, kind, 1, [seconds]) for kind, seconds in zip(kinds, times, strict=True)]
    targets = [
        Target("seconds at first", kinds[:1], lambda row: row.seconds, "<=", 180),
        Target("seconds the second time", kinds[1:], lambda row: row.seconds),
    ]
    return Work(name, lambda: None, [], targets), rows


def compile_seconds(sizes: Sizes) -> float:
    """Seconds to trace, lower and compile the epochs of all optimizers, with SAM and without."""
    dataset, model = _compiled(sizes)
    bench = workbench(data.load(dataset), model)
    mesh, total = member_mesh(auto_width(3, 0)), 0.0
    for optimizer in sizes.optimizers:
        for sam in ("none", "sam"):
            settings = Settings(batch_size=sizes.batch_size)
            config = RunConfig(dataset, model, optimizer, sam, 0, settings).resolved()
            recipe = make_recipe(config, bench)
            arguments = _arguments(config, recipe, bench, mesh)
            start = time.perf_counter()
            epochs.epoch_program(recipe, mesh).lower(*arguments).compile()
            total += time.perf_counter() - start
    return total


def _compiled(sizes):
    """Data set and model whose programs are compiled."""
    return ("digits", "small_mlp") if sizes.smoke else ("fashion_mnist", sizes.models[1])


def _arguments(config: RunConfig, recipe: training.Recipe, bench: Workbench, mesh: Mesh) -> tuple:
    """What the program of a group with three seeds is called with."""
    hyper = jax.tree.map(np.float32, hyper_parameters(config))
    streams = [epochs.streams(seed) for seed in range(mesh.size)]
    states = [epochs.init_state(recipe, hyper, *bench.trained.init(s.init)) for s in streams]
    labels = [bench.dataset.train.labels] * len(streams)
    rows = stack(states), stack([hyper] * len(streams)), jnp.stack([s.order for s in streams])
    own = place(stack(labels), mesh)
    shared = place(shared_data(bench, budget()), mesh, shared=True)
    return *(place(row, mesh) for row in rows), shared._replace(labels=own)
