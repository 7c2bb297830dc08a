"""The command that measures trained runs, whole studies, and parameters from elsewhere."""

import contextlib
from functools import partial
from pathlib import Path

import jax
import pandas as pd
import tyro
from rich.console import Console

from jaxsharp.cli import report
from jaxsharp.cli.output import make_console
from jaxsharp.cli.progress import Tracker
from jaxsharp.cli.sources import dataset_name, network_of
from jaxsharp.cli.study.asked import Measures, Shared
from jaxsharp.cli.tables import Column, number, print_fitting
from jaxsharp.core.choices import checked, counted, known, known_list
from jaxsharp.data import datasets
from jaxsharp.measures.catalogue import measure
from jaxsharp.measures.contract import Options
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES
from jaxsharp.networks.network import Network
from jaxsharp.networks.weights import load_weights
from jaxsharp.runs import claims, files
from jaxsharp.runs.config import RunConfig, labels
from jaxsharp.studies.checkpoints import parse_epochs, work
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.workbench import Workbench, load_workbench, workbench
from jaxsharp.studies.writing.joined import write_joined
from jaxsharp.studies.writing.tables import write_checkpoints

USUAL = "usual"
MOST_ROWS = 40  # that are printed


def sharpness(
    run: tyro.conf.Positional[tuple[Path, ...]] = (),
    *,
    measures: Measures = USUAL,
    epochs: str = "final",
    out: Path | None = None,
    dataset: str | None = None,
    model: str | None = None,
    params: Path | None = None,
    holdout: int = 0,
    data_dir: Path | None = None,
    quiet: bool = False,
    settings: Shared[Options] = Options(),
) -> None:
    """Measure the sharpness of trained runs, into the files of their directories.

    jaxsharp sharpness runs/one

    jaxsharp sharpness runs/first runs/second --epochs all --out along.csv

    jaxsharp sharpness --model mynet.py:make --params weights.safetensors --dataset mine.npz

    Args:
        run: Runs, studies, or folders that hold some; none for parameters trained elsewhere.
        measures: Sharpness measures, separated by commas; usual are those of a study, and the three
            defaults of a run by itself. Unless settings are given, those of a study are taken.
        epochs: Checkpoints to measure: all, final, losses (of --save-losses), or epochs and final,
            as in 50,100,final.
        out: File (.csv) for a table of all that was asked for, a row a run and checkpoint.
        dataset: Data of the user's own that the runs were trained on; with parameters any data set.
        model: FILE.py:FUNCTION of the user's own network; with parameters any network.
        params: Parameters that were trained elsewhere (.safetensors, .npz, a folder of orbax):
            measured on the training examples of the data set, and printed.
        holdout: Last N training examples to leave out, with parameters.
        data_dir: Directory with the official files of the data set.
        quiet: Print the result alone.
    """
    names = None if measures == USUAL else known_list("measure", measures, MEASURES)
    checked(settings)
    choice = parse_epochs(epochs)
    if bool(run) == (params is not None):
        raise ValueError("give a run directory, a study, or --params with --model and --dataset")
    if params is not None:
        if dataset is None or model is None:
            raise ValueError("params needs --model and --dataset")
        if choice.text != "final" or out is not None:
            raise ValueError("params has no --epochs and no --out; these are of runs")
        loaded = datasets.load(dataset, data_dir=data_dir, holdout=holdout)
        usual = names or DEFAULT_MEASURES
        return measure_elsewhere(network_of(model, dataset)[1], params, loaded, usual, settings)
    if out is not None:
        if out.suffix.lower() != ".csv":
            raise ValueError(f"out is {str(out)!r}; its suffix must be .csv")
        claims.check_outside(out)

    found = work.tasks(run, choice, partial(asked, names, settings))
    groups = work.groups(found, partial(bench_of, dataset, model, data_dir))
    total = sum(len(group.places) * len(group.measures) for group in groups)
    console = make_console()
    with contextlib.ExitStack() as held:
        for task in found:
            held.enter_context(files.lock(task.folder))
        with Tracker(console, "measure", total, quiet=quiet) as tracker:
            try:
                work.measure(groups, report=tracker.update)
            finally:
                written = [
                    task.folder / "checkpoints.csv"
                    for task in found
                    if task.study is not None and write_checkpoints(task.folder, task.study)
                ]
                for folder in run:
                    written += [folder / name for name in write_joined(folder)]
    tell(console, found, work.joined(found), written, out)


def asked(
    names: tuple[str, ...] | None, settings: Options, study: StudyConfig | None
) -> tuple[tuple[str, ...], Options]:
    """Measures and settings of a study, or of a run by itself: those given, or its own."""
    if study is None:
        return names or DEFAULT_MEASURES, settings
    wanted = names or study.measures
    for name in wanted:
        known("measure", name, MEASURES)
    return wanted, study.options if settings == Options() else settings


def bench_of(
    dataset: str | None, model: str | None, data_dir: Path | None, config: RunConfig
) -> Workbench:
    """Data and network of a run, with files of the user's own; ValueError for those of another."""
    model_name, network = network_of(model or config.model, config.dataset)
    for what, told, own in (
        ("dataset", dataset_name(dataset or config.dataset), config.dataset),
        ("model", model_name, config.model),
    ):
        if told != own:
            raise ValueError(f"{what} is {told}; the run was trained with {own}")
    return load_workbench(dataset or config.dataset, network, config.settings, data_dir)


def tell(
    console: Console,
    found: list[work.Task],
    table: pd.DataFrame,
    written: list[Path],
    out: Path | None,
) -> None:
    """Print what was measured, of a single end all of its row, and which files have it."""
    (first, *others), places = found, [place for task in found for place in task.places]
    if not others and len(places) == 1 and places[0].saved is None and first.study is None:
        report.print_run(console, first.folder, first.measured)
    elif len(places) <= MOST_ROWS:
        names = labels([place.config for place in places])
        measures = dict.fromkeys(name for task in found for name in task.measures)
        columns = [
            Column(name.replace("_", " "), [number(value, 4) for value in table[name]])
            for name in ("train_loss", "gap", *(name for name in measures if name in table))
        ]
        rows = [Column("run", names, True), Column("checkpoint", list(table["checkpoint"]), True)]
        print_fitting(console, rows, [columns])
    if out is not None:
        files.write_table(out, table)
        written = [*written, out]
    for file in written:
        console.print(f"{file}: {counted(len(pd.read_csv(file)), 'row')}")


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
    used = counted(bench.network.loss.used(len(dataset.train.labels)), "example")
    console.print(f"{params} on {used} of {dataset.name}:")
    for name, record in table.items():
        kind = MEASURES[name].error
        ended = "" if record.finished else ", not finished"
        console.print(f"  {name}  {record.value:.6g} ± {record.error:.2g} ({kind}){ended}")
