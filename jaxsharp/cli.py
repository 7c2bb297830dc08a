"""The command line: parses, checks names, calls, prints."""

import difflib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

import jaxsharp
from jaxsharp import canvas, data, figures, models, report, runs, sweep
from jaxsharp import study as studies
from jaxsharp.measures import DEFAULT_MEASURES, MEASURES, Options
from jaxsharp.optimizers import OPTIMIZERS, SHARPNESS_AWARE
from jaxsharp.progress import Tracker
from jaxsharp.runs import SAM, RunConfig, Settings

Shared = tyro.conf.OmitArgPrefixes
RunPath = tyro.conf.Positional[Path]
DEFAULT_MODEL = {"digits": "small_mlp"}


def study(
    *,
    dataset: str = "digits",
    model: str | None = None,
    optimizers: str = ",".join(OPTIMIZERS),
    sam: str = "none,sam",
    seeds: int = 3,
    measures: str = ",".join(DEFAULT_MEASURES),
    out: Path | None = None,
    data_dir: Path | None = None,
    fresh: bool = False,
    save_every: int = 50,
    quiet: bool = False,
    training: Shared[Settings] = Settings(),
    measuring: Shared[Options] = Options(),
) -> None:
    """Train a grid of runs, measure the sharpness of each, write tables and figures.

    The same command continues a study that was interrupted. `jaxsharp list` has the names.

    Args:
        dataset: Data set.
        model: Network; small_mlp for the digits, simple_batch otherwise.
        optimizers: Optimizers, separated by commas.
        sam: Sharpness-aware variants, separated by commas; none is the optimizer alone.
        seeds: Runs of each optimizer, with seeds 0, 1, ...
        measures: Sharpness measures, separated by commas.
        out: Output folder; by default one below runs/ that is named after the configuration.
        data_dir: Directory with the official files of the data set.
        fresh: Delete what the output folder holds and start over.
        save_every: Epochs between checkpoints.
        quiet: Print the result alone.
    """
    config = studies.StudyConfig(
        dataset=known("dataset", dataset, data.DATASETS),
        model=known("model", model or DEFAULT_MODEL.get(dataset, "simple_batch"), models.MODELS),
        optimizers=known_list("optimizer", optimizers, OPTIMIZERS),
        sam=known_list("SAM variant", sam, SAM),
        seeds=at_least_one("seeds", seeds),
        measures=known_list("measure", measures, MEASURES),
        settings=checked(training),
        options=checked(measuring),
    )
    at_least_one("save_every", save_every)
    begin = time.monotonic()
    bench = load_workbench(config.dataset, config.model, training, data_dir, seeds)
    for first, *_ in config.groups():
        sweep.make_recipe(first, bench)
    out = out or Path("runs") / config.name
    runs.claim(out, config.as_dict(), fresh=fresh)
    console = make_console()
    if not quiet:
        console.print(
            f"{len(config.groups()) * seeds} runs of {config.model} on {config.dataset} "
            f"({len(bench.images)} training and {len(bench.test_images)} test examples from "
            f"{bench.dataset.source}) into {out}",
            highlight=False,
        )
    with Tracker(console, "study", studies.num_steps(config), quiet=quiet) as tracker:
        result = studies.run(config, out, bench, save_every=save_every, report=tracker.update)
    report.print_study(console, config, result, out, time.monotonic() - begin)


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
    sweep.make_recipe(config, bench)
    out = out or Path("runs") / f"{config.dataset}-{config.model}-{config.name}"
    runs.claim_run(out, config, fresh=fresh)
    console = make_console()
    with Tracker(console, "epoch", training.epochs, quiet=quiet) as tracker:
        studies.train_group([config], [out], bench, save_every, tracker.update)
    report.print_run(console, out)


def sharpness(
    run: RunPath,
    *,
    measures: str = ",".join(DEFAULT_MEASURES),
    data_dir: Path | None = None,
    quiet: bool = False,
    measuring: Shared[Options] = Options(),
) -> None:
    """Measure the sharpness of a trained run, into the file sharpness.csv of its directory.

    Args:
        run: Run directory.
        measures: Sharpness measures, separated by commas.
        data_dir: Directory with the official files of the data set.
        quiet: Print the result alone.
    """
    names = known_list("measure", measures, MEASURES)
    checked(measuring)
    config = runs.read_run_config(run)
    if runs.latest_checkpoint(run) is None:
        raise runs.RunError(f"{run} has no checkpoint yet; train the run first")
    bench = load_workbench(config.dataset, config.model, config.settings, data_dir)
    console = make_console()
    with Tracker(console, "measure", len(names), quiet=quiet) as tracker:
        sweep.measure(
            *(config, run, bench, names, measuring),
            lambda name: tracker.update(names.index(name), name),
        )
    report.print_run(console, run)


def plot(run: tyro.conf.Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Draw loss and accuracy against epoch, of a run with SAM beside one without, say.

    Args:
        run: One or more run directories.
        out: File of the figure (png, pdf, svg); by default curves.png in the first directory.
    """
    if not run:
        raise ValueError("plot needs one or more run directories")
    histories = {}
    for path in run:
        config = runs.read_run_config(path)
        label = f"{studies.group_name(config)}, seed {config.seed}"
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


def known(kind: str, name: str, valid: Iterable[str]) -> str:
    """The name itself, or ValueError with the valid ones, the closest first."""
    valid = list(valid)
    if name in valid:
        return name
    order = difflib.get_close_matches(name, valid, n=len(valid), cutoff=0.0)
    raise ValueError(f"unknown {kind} {name!r}; valid are {', '.join(order)}")


def known_list(kind: str, names: str, valid: Iterable[str]) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found:
        raise ValueError(f"no {kind} is named; valid are {', '.join(valid)}")
    return tuple(known(kind, name, valid) for name in found)


def checked(settings: Any) -> Any:
    """Settings or Options that passed their own check."""
    settings.check()
    return settings


def at_least_one(name: str, value: int) -> int:
    """The value itself, or ValueError."""
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return value


def load_workbench(
    dataset: str, model: str, settings: Settings, data_dir: Path | None, members: int = 1
) -> sweep.Workbench:
    """Data set and network of a configuration."""
    loaded = data.load(
        dataset, data_dir=data_dir, train_size=settings.train_size, holdout=settings.holdout
    )
    return sweep.workbench(loaded, model, members=members)


def make_console() -> Console:
    """Console that does not cut tables short where its output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


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


COMMANDS = {
    "study": study,
    "train": train,
    "sharpness": sharpness,
    "plot": plot,
    "list": list_names,
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``jaxsharp``. JAXSHARP_DEBUG=1 shows tracebacks of errors in the input."""
    signal.signal(signal.SIGTERM, interrupt)
    use_compilation_cache()
    try:
        summary = jaxsharp.__doc__.splitlines()[0]
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="jaxsharp", description=summary, args=arguments
        )
    except (ValueError, OSError) as error:
        if os.environ.get("JAXSHARP_DEBUG"):
            raise
        print(f"jaxsharp: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("jaxsharp: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
