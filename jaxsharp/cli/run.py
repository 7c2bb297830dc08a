"""Commands on a single run, those that show runs and studies, and the names that all know."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from jaxsharp.analysis.page import page_of
from jaxsharp.cli import report
from jaxsharp.cli.output import make_console
from jaxsharp.cli.parsing import naming
from jaxsharp.cli.progress import Tracker
from jaxsharp.cli.sources import dataset_name, network_of
from jaxsharp.cli.study.asked import Dataset, Model, Shared
from jaxsharp.core.choices import at_least_one, checked, known
from jaxsharp.data import datasets
from jaxsharp.measures.registry import MEASURES
from jaxsharp.networks import models
from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE, own_arguments
from jaxsharp.runs import claims, directory, files, reading
from jaxsharp.runs.config import HYPER_PARAMETERS, SAM, RunConfig, Settings
from jaxsharp.studies import report as report_of
from jaxsharp.studies import status, study, sweep
from jaxsharp.studies.checkpoints.again import train_again
from jaxsharp.studies.recipes import make_recipe
from jaxsharp.studies.workbench import load_workbench


def train(
    *,
    dataset: Dataset = "digits",
    model: Model = None,
    optimizer: Annotated[str, naming(OPTIMIZERS)] = "sgd",
    sam: Annotated[str, naming(SAM)] = "none",
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    fresh: bool = False,
    save_every: int = 50,
    quiet: bool = False,
    training: Shared[Settings] = Settings(),
) -> None:
    """Train one network in a run directory, or continue an interrupted run there.

    With more epochs a run that neither converged nor diverged is trained on.

    jaxsharp train --optimizer adam --sam asam --out runs/one

    jaxsharp train --dataset fashion_mnist --model lenet --learning-rate 0.05 --epochs 20

    Args:
        dataset: Data set, or a file or place of the user's own (`jaxsharp study --help`).
        model: Network, or FILE.py:FUNCTION of the user's own (`jaxsharp study --help`).
        optimizer: Optimizer.
        sam: Sharpness-aware variant; none is the optimizer alone.
        seed: Seed of initialization, data order, label noise and measures.
        out: Run directory; by default one below runs/ that is named after the run.
        data_dir: Directory with the official files of the data set.
        fresh: Delete what the run directory holds and start over.
        save_every: Epochs between checkpoints.
        quiet: Print the result alone.
    """
    model_name, network = network_of(model, dataset)
    training.check_average()
    config = RunConfig(
        dataset=dataset_name(dataset),
        model=model_name,
        optimizer=known("optimizer", optimizer, OPTIMIZERS),
        sam=known("SAM variant", sam, SAM),
        seed=seed,
        settings=checked(training),
    )
    config = checked(config).resolved()
    at_least_one("save_every", save_every)
    bench = load_workbench(dataset, network, training, data_dir)
    make_recipe(config, bench)
    out = out or Path("runs") / f"{config.dataset}-{config.model}-{config.name}"
    console = make_console()
    found = config
    if not fresh:
        directory.keep_config(out, config)
        found = directory.held(out, config)
    with (
        claims.claimed(out, asdict(found), fresh=fresh),
        Tracker(console, "epoch", training.epochs, quiet=quiet) as tracker,
    ):
        tracker.update(0, config.label, "compiling")
        directory.train_on(out, config)
        sweep.train(
            *([config], [out], bench),
            save_every=save_every,
            report=lambda p: tracker.update(p.epochs, config.label, study.describe(p)),
        )
        train_again([config], [out], bench)
    report.print_run(console, out)


def plot(run: tyro.conf.Positional[tuple[Path, ...]], *, out: Path = Path("curves.png")) -> None:
    """Draw loss and accuracy against epoch, of a run with SAM beside one without, say.

    Args:
        run: Runs, studies, or folders that hold some; a curve for each run.
        out: File of the figure (png, pdf, svg), outside of runs and studies.
    """
    from jaxsharp.analysis import canvas, figures

    if not run:
        raise ValueError("plot needs one or more runs, studies, or folders of them")
    claims.check_outside(out)
    canvas.save(figures.run_curves(reading.histories(run)), out)
    print(out)


def show_status(folder: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Say how far a study is, from another terminal or after it stopped.

    Args:
        folder: Studies, runs, or folders that hold some.
    """
    if not folder:
        raise ValueError("status needs one or more studies, runs, or folders of them")
    make_console().print(status.describe_all(folder), soft_wrap=True)


def write_report(
    folder: tyro.conf.Positional[tuple[Path, ...]], *, out: Path = Path("report.html")
) -> None:
    """Write one HTML page of studies and runs: tables, figures to choose from, settings.

    jaxsharp report runs/first --out first.html

    Args:
        folder: Studies, runs, or folders that hold some.
        out: File of the page (.html), outside of runs and studies.
    """
    if not folder:
        raise ValueError("report needs one or more studies, runs, or folders of them")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out is {str(out)!r}; its suffix must be .html")
    claims.check_outside(out)
    files.write_text(out, page_of(report_of.read(folder)))
    print(out)


def list_names() -> None:
    """List data sets, models, optimizers, SAM variants and measures with one line each.

    Optimizers and variants have their own learning rate, momentum, weight decay and rho.
    """
    console = make_console()
    described: dict[str, dict[str, str]] = {
        "data sets": {name: spec.description for name, spec in datasets.DATASETS.items()},
        "models": {name: spec.description for name, spec in models.MODELS.items()},
        "optimizers": {name: with_defaults(f) for name, f in OPTIMIZERS.items()},
        "SAM variants": {name: with_defaults(f) for name, f in SHARPNESS_AWARE.items()},
        "measures": {name: f"{m.description}; error: {m.error}" for name, m in MEASURES.items()},
    }
    for title, entries in described.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, text in entries.items():
            table.add_row(name, text)
        console.print(table)


def with_defaults(factory: Callable) -> str:
    """What an optimizer's docstring begins with, and the hyper-parameters of its own."""
    own = own_arguments(factory)
    found = [f"{name} {own[name]:g}" for name in HYPER_PARAMETERS if name in own]
    return f"{first_line(factory)} ({', '.join(found)})"


def first_line(function: Callable) -> str:
    """What a docstring begins with."""
    return function.__doc__.strip().splitlines()[0]
