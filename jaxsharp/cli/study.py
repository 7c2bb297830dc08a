"""Commands on studies: run one or a part of one, join parts."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from rich.console import Console

from jaxsharp.analysis import canvas
from jaxsharp.cli import evaluate, report
from jaxsharp.cli.output import make_console
from jaxsharp.cli.parsing import naming
from jaxsharp.cli.progress import Tracker
from jaxsharp.cli.sources import Pair, benches_of, pairs_of
from jaxsharp.core.choices import at_least_one, checked, counted, known_list, width_of
from jaxsharp.data import datasets, own
from jaxsharp.measures.contract import Options
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES
from jaxsharp.networks import models
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import files
from jaxsharp.runs.config import SAM, Settings
from jaxsharp.studies import interrupts, merge, status, study, sweep
from jaxsharp.studies.grid import StudyConfig, parse_shard, parse_vary
from jaxsharp.studies.recipes import make_recipe
from jaxsharp.studies.tensorboard import Scalars
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing import joined
from jaxsharp.training.hosts import Hosts, join
from jaxsharp.training.members import agreed
from jaxsharp.training.trackers import columns_of

Shared = tyro.conf.OmitArgPrefixes
Dataset = Annotated[str, naming([*datasets.DATASETS, *own.VALID])]
Model = Annotated[str | None, naming([*models.MODELS, "FILE.py:FUNCTION"])]
Measures = Annotated[str, naming(MEASURES)]
Figures = Annotated[str, naming(canvas.FORMATS)]
USUAL_MEASURES = ",".join(DEFAULT_MEASURES)


def run_study(
    *,
    dataset: Dataset = "digits",
    model: Model = None,
    optimizers: Annotated[str, naming(OPTIMIZERS)] = ",".join(OPTIMIZERS),
    sam: Annotated[str, naming(SAM)] = "none,sam",
    seeds: int = 3,
    vary: tuple[str, ...] = (),
    measures: Measures = USUAL_MEASURES,
    out: Path | None = None,
    data_dir: Path | None = None,
    fresh: bool = False,
    save_every: int = 50,
    quiet: bool = False,
    width: str = "auto",
    devices_per_member: int = 1,
    shard: str | None = None,
    tensorboard: bool = False,
    figures: Figures = "png",
    hosts: Shared[Hosts] = Hosts(),
    training: Shared[Settings] = Settings(),
    measuring: Shared[Options] = Options(),
) -> None:
    """Train a grid of runs, measure the sharpness of each, write tables and figures.

    The same command continues a study that was interrupted; with more names, values, seeds or
    epochs, and its --out, it grows. `jaxsharp list` explains the names.

    jaxsharp study --optimizers sgd,adam --sam none,asam --seeds 5 --out runs/first

    jaxsharp study --dataset fashion_mnist --train-size 5000 --vary learning_rate=0.1,0.01

    jaxsharp study --dataset mine.csv --holdout 100 --model mynet.py:make --schedule cosine

    jaxsharp study --dataset mnist,fashion_mnist --model lenet,simple_batch --out runs/four

    Args:
        dataset: Data set; a file of the user's own; a folder with train/CLASS/*.png and
            test/CLASS/*.png, or with x_train.npy and so on, which stay there; hf:OWNER/NAME of
            Hugging Face's or tfds:NAME, where it is there;
            several, separated by commas, make a study for each with each network in a folder of
            its own, and one table of all.
        model: Network, or a function of a file of the user's own that takes nnx.Rngs and returns
            an NNX module, or takes nothing and returns a networks.Network; by default small_mlp for
            the digits, files, hf: and tfds:, simple_batch otherwise; several, separated by commas.
        optimizers: Optimizers, separated by commas.
        sam: Sharpness-aware variants, separated by commas; none is the optimizer alone.
        seeds: Runs of each combination, with seeds 0, 1, ...
        vary: More axes of the grid, as in learning_rate=0.1,0.01 average=none,ema.
        measures: Sharpness measures, separated by commas.
        out: Output folder; by default one below runs/ that is named after the configuration.
        data_dir: Directory with the official files of the data set, or what was prepared or cached.
        fresh: Delete what the output folder holds and start over.
        save_every: Epochs between checkpoints.
        quiet: Print the result alone.
        width: Runs in one program, or auto.
        devices_per_member: Devices that share the batches of a run.
        shard: Do one part of the grid, as in 2/4 for the second of four; see `jaxsharp merge`.
        tensorboard: Write losses and accuracies as TensorBoard scalars into OUT/tensorboard.
        figures: Formats of the figures, separated by commas.
    """
    pairs, configs, formats, layout = asked(
        **{"dataset": dataset, "model": model, "optimizers": optimizers, "sam": sam},
        **{"seeds": seeds, "vary": vary, "measures": measures, "shard": shard, "hosts": hosts},
        **{"training": training, "measuring": measuring, "figures": figures, "width": width},
        **{"devices_per_member": devices_per_member, "save_every": save_every},
    )
    several = len(pairs) > 1
    out = out or Path("runs") / folder_of(configs)
    if several:
        joined.check_folder(out, configs)
    begin = time.monotonic()
    join(hosts)
    benches = benches_of(pairs, training, data_dir)
    sweep.check_layout(layout)
    for config, bench in zip(configs, benches, strict=True):
        if not config.groups():
            raise ValueError(
                f"shard {shard} of {counted(len(config.members()), 'run')} is empty; take fewer "
                "parts"
            )
        for first, *_ in config.groups():
            make_recipe(first, bench)
    do = Doing(save_every, layout, formats, quiet or not study.is_writer(), tensorboard, fresh)
    if not several:
        conduct(configs[0], out, benches[0], do, begin)
        return
    try:
        for config, bench in zip(configs, benches, strict=True):
            conduct(config, out / joined.folder_name(config), bench, do, time.monotonic())
    finally:
        written = joined.write_joined(out) if study.is_writer() else []
    tell_joined(out, written)


class Doing(NamedTuple):
    """How studies are done: what changes none of their numbers."""

    save_every: int
    layout: sweep.Layout
    figures: tuple[str, ...]
    quiet: bool
    tensorboard: bool
    fresh: bool


def conduct(config: StudyConfig, out: Path, bench: Workbench, do: Doing, begin: float) -> None:
    """Do a study in its folder, and print its result."""
    console = make_console()
    followed = columns_of(config.settings.tracked)
    kept = Scalars(out / "tensorboard", followed) if do.tensorboard else nullcontext()
    with interrupts.deferred() as requested, study.claimed(out, config, fresh=do.fresh):
        if not do.quiet:
            console.print(opening(config, bench, out))
        total = len(config.shard_members()) * config.steps_per_run
        with (
            Tracker(console, "study", total, quiet=do.quiet) as tracker,
            status.Board(out) as board,
            kept as scalars,
        ):

            def tell(progress: study.Progress) -> None:
                if agreed(requested()):
                    raise KeyboardInterrupt
                tracker.update(progress.steps, progress.group, progress.doing)
                board.update(progress)
                if scalars is not None:
                    scalars.update(progress)

            result = study.conduct(
                *(config, out, bench),
                save_every=do.save_every,
                layout=do.layout,
                report=tell,
                figures=do.figures,
            )
        if study.is_writer():
            finish(console, config, result, out, begin, do.figures)


def finish(
    console: Console,
    config: StudyConfig,
    result: study.StudyResult,
    out: Path,
    begin: float,
    formats: Sequence[str],
) -> None:
    """Print the result of a study, and evaluate it."""
    report.print_study(console, config, result, out, time.monotonic() - begin, formats)
    evaluate.evaluate_study(console, config, result, out)


def tell_joined(out: Path, names: Sequence[str]) -> None:
    """Say which joined tables there are."""
    if names:
        folders = counted(len(joined.studies_in(out)), "study folder")
        text = f"{out}: {', '.join(names)} of {folders}; for jaxsharp evaluate {out}"
        make_console().print(text, highlight=False, soft_wrap=True)


class Asked(NamedTuple):
    """What the options of a study ask for: a study for each pair of a data set and a network."""

    pairs: list[Pair]
    configs: list[StudyConfig]
    formats: tuple[str, ...]
    layout: sweep.Layout


def asked(
    *,
    dataset,
    model,
    optimizers,
    sam,
    seeds,
    vary,
    measures,
    shard,
    hosts,
    training,
    measuring,
    figures,
    width,
    devices_per_member,
    save_every,
    **rest,
) -> Asked:
    """The options of `run_study`, checked without data; of the ``rest`` nothing is known here."""
    if shard is not None:
        parse_shard(shard)
    checked(hosts)
    formats = known_list("figure format", figures, canvas.FORMATS)
    layout = sweep.Layout(width_of(width), at_least_one("devices_per_member", devices_per_member))
    pairs = pairs_of(dataset, model)
    configs = [
        StudyConfig(
            dataset=pair.dataset_name,
            model=pair.model_name,
            optimizers=known_list("optimizer", optimizers, OPTIMIZERS),
            sam=known_list("SAM variant", sam, SAM),
            seeds=at_least_one("seeds", seeds),
            measures=known_list("measure", measures, MEASURES),
            settings=checked(training),
            options=checked(measuring),
            vary=parse_vary(vary, training),
            shard=shard,
        )
        for pair in pairs
    ]
    for config in configs:
        config.check()
    at_least_one("save_every", save_every)
    return Asked(pairs, configs, formats, layout)


def folder_of(configs: Sequence[StudyConfig]) -> str:
    """What the folder of a study, or of several, is called."""
    return joined.name_of(configs) if len(configs) > 1 else configs[0].name


def opening(config: StudyConfig, bench, out: Path) -> str:
    """What is about to be done."""
    split, source = bench.dataset, bench.dataset.source
    return (
        f"{counted(len(config.shard_members()), 'run')} of {config.model} on {config.dataset} "
        f"({len(split.train.labels)} training and {len(split.test.labels)} test examples from "
        f"{source}) into {out}"
    )


def merge_parts(
    parts: tyro.conf.Positional[tuple[Path, ...]], *, out: Path, figures: Figures = "png"
) -> None:
    """Join the parts of a study that were made with --shard, and write its tables and figures.

    Args:
        parts: Folders of all parts, in any order; of a study, or each of the same several.
        out: Folder of the whole study.
        figures: Formats of the figures, separated by commas.
    """
    formats = known_list("figure format", figures, canvas.FORMATS)
    begin = time.monotonic()
    by_study = joined.parts_by_study(parts)
    checked_parts = [merge.check_parts(each, out / name) for name, each in by_study.items()]
    if "" not in by_study:
        joined.check_folder(out, [each.whole for each in checked_parts])
    for each in checked_parts:
        config = merge.copy_all(each)
        with files.lock(each.out):
            study.write_tables(each.out, config, set(config.members()))
            result = study.summarize(config, each.out, formats)
            finish(make_console(), config, result, each.out, begin, formats)
    if "" not in by_study:
        tell_joined(out, joined.write_joined(out))
