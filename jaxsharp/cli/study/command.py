"""Commands on studies: run one or a part of one, join parts."""

import time
from pathlib import Path
from typing import Annotated

import tyro

from jaxsharp.analysis import canvas
from jaxsharp.cli.output import make_console
from jaxsharp.cli.parsing import naming
from jaxsharp.cli.study.asked import (
    USUAL_MEASURES,
    Dataset,
    Figures,
    Measures,
    Model,
    Shared,
    asked,
    folder_of,
    prepared,
)
from jaxsharp.cli.study.doing import Doing, conduct, finish, tell_joined
from jaxsharp.core.choices import known_list
from jaxsharp.measures.contract import Options
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import files
from jaxsharp.runs.config import SAM, Settings
from jaxsharp.studies import merge, study, sweep
from jaxsharp.studies.grid import registration
from jaxsharp.studies.writing import joined
from jaxsharp.training.hosts import Hosts, join


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
    hypotheses: str | None = None,
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
        hypotheses: What is expected, separated by commas, as in minimum_sharpness:+:gap (measure,
            sign of Kendall's tau, target), which OUT/config.json registers before the first run.
    """
    wanted = asked(
        **{"dataset": dataset, "model": model, "optimizers": optimizers, "sam": sam},
        **{"seeds": seeds, "vary": vary, "measures": measures, "shard": shard, "hosts": hosts},
        **{"training": training, "measuring": measuring, "figures": figures, "width": width},
        **{"devices_per_member": devices_per_member, "save_every": save_every},
        hypotheses=hypotheses,
    )
    _, configs, formats, layout, stated = wanted
    several = len(configs) > 1
    out = out or Path("runs") / folder_of(configs)
    if several:
        joined.check_folder(out, configs)
    begin = time.monotonic()
    join(hosts)
    benches = prepared(wanted, training, data_dir)
    sweep.check_layout(layout, *benches)
    folders = [out / joined.folder_name(each) for each in configs] if several else [out]
    if study.is_writer():  # all before the first of them is trained
        for config, folder in zip(configs, folders, strict=True):
            registration.due(folder, config, stated, fresh=fresh)
    quiet = quiet or not study.is_writer()
    do = Doing(save_every, layout, formats, quiet, tensorboard, fresh, stated)
    if not several:
        conduct(configs[0], out, benches[0], do, begin)
        return
    try:
        for config, bench, folder in zip(configs, benches, folders, strict=True):
            conduct(config, folder, bench, do, time.monotonic())
    finally:
        written = joined.write_joined(out) if study.is_writer() else []
    tell_joined(out, written)


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
