"""Commands on single runs, and the names that all commands know."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.table import Table

from jaxsharp.cli import report
from jaxsharp.cli.output import make_console
from jaxsharp.cli.parsing import naming
from jaxsharp.cli.progress import Tracker
from jaxsharp.cli.sources import dataset_name, network_of
from jaxsharp.cli.study import USUAL_MEASURES, Dataset, Measures, Model, Shared
from jaxsharp.core.choices import at_least_one, checked, counted, known, known_list
from jaxsharp.data import datasets
from jaxsharp.measures.catalogue import measure
from jaxsharp.measures.contract import Options
from jaxsharp.measures.registry import MEASURES
from jaxsharp.networks import models
from jaxsharp.networks.network import Network
from jaxsharp.networks.weights import load_weights
from jaxsharp.optimizers.registry import OPTIMIZERS, SHARPNESS_AWARE, own_arguments
from jaxsharp.runs import claims, directory, files, reading
from jaxsharp.runs.config import HYPER_PARAMETERS, SAM, RunConfig, Settings
from jaxsharp.studies import measuring, study, sweep
from jaxsharp.studies.origins import fingerprint
from jaxsharp.studies.recipes import make_recipe
from jaxsharp.studies.workbench import load_workbench, workbench


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

    jaxsharp train --optimizer adam --sam asam --out runs/one

    jaxsharp train --dataset fashion_mnist --model lenet --learning-rate 0.05 --epochs 20

    Args:
        dataset: Data set, or a file of the user's own.
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
    run: tyro.conf.Positional[Path | None] = None,
    *,
    measures: Measures = USUAL_MEASURES,
    dataset: str | None = None,
    model: str | None = None,
    params: Path | None = None,
    holdout: int = 0,
    data_dir: Path | None = None,
    quiet: bool = False,
    settings: Shared[Options] = Options(),
) -> None:
    """Measure the sharpness of a trained run, into the file sharpness.csv of its directory.

    jaxsharp sharpness runs/one

    jaxsharp sharpness --model mynet.py:make --params weights.safetensors --dataset mine.npz

    Args:
        run: Run directory; none for parameters that were trained elsewhere.
        measures: Sharpness measures, separated by commas.
        dataset: File of the user's own that the run was trained on; with parameters any data set.
        model: FILE.py:FUNCTION of the user's own network; with parameters any network.
        params: Parameters that were trained elsewhere (.safetensors, .npz): measured on the
            training examples of the data set, and printed.
        holdout: Last N training examples to leave out, with parameters.
        data_dir: Directory with the official files of the data set.
        quiet: Print the result alone.
    """
    names = known_list("measure", measures, MEASURES)
    checked(settings)
    if (run is None) == (params is None):
        raise ValueError("give a run directory, or --params with --model and --dataset")
    if params is not None:
        if dataset is None or model is None:
            raise ValueError("params needs --model and --dataset")
        loaded = datasets.load(dataset, data_dir=data_dir, holdout=holdout)
        return measure_elsewhere(network_of(model, dataset)[1], params, loaded, names, settings)
    config = claims.read_run_config(run)
    if directory.latest_checkpoint(run) is None:
        raise claims.RunError(f"{run} has no checkpoint yet; train the run first")
    model_name, network = network_of(model or config.model, config.dataset)
    for what, told, own in (
        ("dataset", dataset_name(dataset or config.dataset), config.dataset),
        ("model", model_name, config.model),
    ):
        if told != own:
            raise ValueError(f"{what} is {told}; the run was trained with {own}")
    bench = load_workbench(dataset or config.dataset, network, config.settings, data_dir)
    made_from = fingerprint(config, bench)
    directory.check_origin(run, made_from, "measure it with what it was made from (--data-dir)")
    console = make_console()
    with (
        files.lock(run),
        Tracker(console, "measure", len(names), quiet=quiet) as tracker,
    ):
        measuring.measure(
            *([config], [run], bench, names, settings),
            made_from=made_from,
            report=lambda name, _: tracker.update(names.index(name), name),
        )
    report.print_run(console, run, {name: MEASURES[name].settings(settings) for name in names})


def measure_elsewhere(
    network: Network | str,
    params: Path,
    dataset: datasets.Dataset,
    names: tuple[str, ...],
    options: Options,
) -> None:
    """Print the measures of parameters in a file, with their errors."""
    bench = workbench(dataset, network)
    trained = load_weights(params, bench.network)
    key = jax.random.key(0)
    table = measure(bench.network, *trained, dataset.train, names, key=key, options=options)
    console = make_console()
    console.print(f"{params} on {counted(len(dataset.train.labels), 'example')} of {dataset.name}:")
    for name, record in table.items():
        kind = MEASURES[name].error
        ended = "" if record.finished else ", not finished"
        console.print(f"  {name}  {record.value:.6g} ± {record.error:.2g} ({kind}){ended}")


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
