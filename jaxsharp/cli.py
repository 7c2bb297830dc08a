"""The command line: parses, checks names, calls, prints."""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jax
import tyro
from rich.table import Table

import jaxsharp
from jaxsharp import (
    claims,
    data,
    files,
    measuring,
    models,
    report,
    runs,
    study,
    sweep,
)
from jaxsharp.choices import at_least_one, checked, known, known_list
from jaxsharp.cli_study import DEFAULT_MODEL, Shared, merge_parts, run_study, show_status
from jaxsharp.config import SAM, RunConfig, Settings
from jaxsharp.measures import DEFAULT_MEASURES, MEASURES, Options
from jaxsharp.members import cores_as_devices, leave
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.progress import Tracker, make_console
from jaxsharp.workbench import load_workbench, make_recipe

RunPath = tyro.conf.Positional[Path]


def train(
    *,
    dataset: str = "digits",
    model: str | None = None,
    optimizer: str = "sgd",
    sam: str = "none",
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    fresh: bool = False,
    save_every: int = 50,
    quiet: bool = False,
    training: Shared[Settings] = Settings(),
) -> None:
    """Train one network in a run directory, or continue an interrupted run there.

    Args:
        dataset: Data set.
        model: Network; small_mlp for the digits, simple_batch otherwise.
        optimizer: Optimizer.
        sam: Sharpness-aware variant; none is the optimizer alone.
        seed: Seed of initialization, data order, label noise and measures.
        out: Run directory; by default one below runs/ that is named after the run.
        data_dir: Directory with the official files of the data set.
        fresh: Delete what the run directory holds and start over.
        save_every: Epochs between checkpoints.
        quiet: Print the result alone.
    """
    config = RunConfig(
        dataset=known("dataset", dataset, data.DATASETS),
        model=known("model", model or DEFAULT_MODEL.get(dataset, "simple_batch"), models.MODELS),
        optimizer=known("optimizer", optimizer, OPTIMIZERS),
        sam=known("SAM variant", sam, SAM),
        seed=seed,
        settings=checked(training),
    ).resolved()
    at_least_one("save_every", save_every)
    bench = load_workbench(config.dataset, config.model, training, data_dir)
    make_recipe(config, bench)
    out = out or Path("runs") / f"{config.dataset}-{config.model}-{config.name}"
    console = make_console()
    with (
        claims.claimed(out, asdict(config), fresh=fresh),
        Tracker(console, "epoch", training.epochs, quiet=quiet) as tracker,
    ):
        tracker.update(0, config.label, "compiling")
        sweep.train(
            *([config], [out], bench),
            save_every=save_every,
            report=lambda p: tracker.update(p.epochs, config.label, study.describe(p)),
        )
    report.print_run(console, out)


def sharpness(
    run: RunPath,
    *,
    measures: str = ",".join(DEFAULT_MEASURES),
    data_dir: Path | None = None,
    quiet: bool = False,
    options: Shared[Options] = Options(),
) -> None:
    """Measure the sharpness of a trained run, into the file sharpness.csv of its directory.

    Args:
        run: Run directory.
        measures: Sharpness measures, separated by commas.
        data_dir: Directory with the official files of the data set.
        quiet: Print the result alone.
    """
    names = known_list("measure", measures, MEASURES)
    checked(options)
    config = claims.read_run_config(run)
    if runs.latest_checkpoint(run) is None:
        raise claims.RunError(f"{run} has no checkpoint yet; train the run first")
    bench = load_workbench(config.dataset, config.model, config.settings, data_dir)
    console = make_console()
    with (
        files.lock(run),
        Tracker(console, "measure", len(names), quiet=quiet) as tracker,
    ):
        measuring.measure(
            *([config], [run], bench, names, options),
            report=lambda name, _: tracker.update(names.index(name), name),
        )
    report.print_run(console, run)


def plot(run: tyro.conf.Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Draw loss and accuracy against epoch, of a run with SAM beside one without, say.

    Args:
        run: One or more run directories.
        out: File of the figure (png, pdf, svg); by default curves.png in the first directory.
    """
    from jaxsharp import canvas, figures  # Matplotlib, which other commands need not wait for

    if not run:
        raise ValueError("plot needs one or more run directories")
    histories = {}
    for path in run:
        config = claims.read_run_config(path)
        label = f"{config.label}, seed {config.seed}"
        histories[label if label not in histories else str(path)] = runs.read_history(path)
    out = out or run[0] / "curves.png"
    canvas.save(figures.run_curves(histories), out)
    print(out)


def list_names() -> None:
    """List data sets, models, optimizers, SAM variants and measures with one line each."""
    console = make_console()
    described: dict[str, dict[str, str]] = {
        "data sets": {name: spec.description for name, spec in data.DATASETS.items()},
        "models": {name: spec.description for name, spec in models.MODELS.items()},
        "optimizers": {name: first_line(f) for name, f in OPTIMIZERS.items()},
        "SAM variants": {name: first_line(f) for name, f in SHARPNESS_AWARE.items()},
        "measures": {name: f"{m.description}; error: {m.error}" for name, m in MEASURES.items()},
    }
    for title, entries in described.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, text in entries.items():
            table.add_row(name, text)
        console.print(table)


def first_line(function: Callable) -> str:
    """What a docstring begins with."""
    return function.__doc__.strip().splitlines()[0]


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in ~/.cache/jaxsharp unless jax is told otherwise."""
    if not jax.config.jax_compilation_cache_dir:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "jaxsharp"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def interrupt(*_) -> None:
    """Treat SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def ignore_signals() -> None:
    """Leave the clean-up of JAX at exit in peace; of several processes each may have to wait."""
    if not jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


COMMANDS = {
    "study": run_study,
    "merge": merge_parts,
    "status": show_status,
    "train": train,
    "sharpness": sharpness,
    "plot": plot,
    "list": list_names,
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``jaxsharp``. JAXSHARP_DEBUG=1 shows tracebacks of errors in the input."""
    signal.signal(signal.SIGTERM, interrupt)
    atexit.register(ignore_signals)
    use_compilation_cache()
    cores_as_devices()
    try:
        summary = jaxsharp.__doc__.splitlines()[0]
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="jaxsharp", description=summary, args=arguments
        )
    except (ValueError, OSError, ModuleNotFoundError, jax.errors.JaxRuntimeError) as error:
        if os.environ.get("JAXSHARP_DEBUG"):
            raise
        text = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            text = text.partition("\n")[0]
        print(f"jaxsharp: error: {text}", file=sys.stderr)
        leave(2)
    except KeyboardInterrupt:
        print("jaxsharp: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
