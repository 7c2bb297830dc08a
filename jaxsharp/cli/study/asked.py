"""What the options of a study ask for, checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from jaxsharp.analysis import canvas
from jaxsharp.analysis.hypotheses import Hypothesis
from jaxsharp.cli.parsing import naming
from jaxsharp.cli.sources import Pair, benches_of, pairs_of
from jaxsharp.core.choices import at_least_one, checked, counted, known_list, width_of
from jaxsharp.data import datasets, own
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES
from jaxsharp.networks import models
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs.config import SAM, Settings
from jaxsharp.studies import sweep
from jaxsharp.studies.grid import StudyConfig, parse_shard, parse_vary
from jaxsharp.studies.grid.registration import check_targets, hypotheses_of
from jaxsharp.studies.recipes import make_recipe
from jaxsharp.studies.workbench import Workbench
from jaxsharp.studies.writing import joined

Shared = tyro.conf.OmitArgPrefixes
Dataset = Annotated[str, naming([*datasets.DATASETS, *own.VALID])]
Model = Annotated[str | None, naming([*models.MODELS, "FILE.py:FUNCTION"])]
Measures = Annotated[str, naming(MEASURES)]
Figures = Annotated[str, naming(canvas.FORMATS)]
USUAL_MEASURES = ",".join(DEFAULT_MEASURES)


class Asked(NamedTuple):
    """What the options of a study ask for: a study for each pair of a data set and a network."""

    pairs: list[Pair]
    configs: list[StudyConfig]
    formats: tuple[str, ...]
    layout: sweep.Layout
    hypotheses: tuple[Hypothesis, ...]


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
    hypotheses,
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
    stated = () if hypotheses is None else hypotheses_of(hypotheses, configs[0])
    return Asked(pairs, configs, formats, layout, stated)


def prepared(wanted: Asked, training: Settings, data_dir: Path | None) -> list[Workbench]:
    """Data and network of each study, checked to be trained and predicted as it asks."""
    benches = benches_of(wanted.pairs, training, data_dir)
    for config, bench in zip(wanted.configs, benches, strict=True):
        if not config.groups():
            raise ValueError(
                f"shard {config.shard} of {counted(len(config.members()), 'run')} is empty; take "
                "fewer parts"
            )
        for first, *_ in config.groups():
            make_recipe(first, bench)
        check_targets(wanted.hypotheses, bench.network)
    return benches


def folder_of(configs: Sequence[StudyConfig]) -> str:
    """What the folder of a study, or of several, is called."""
    return joined.name_of(configs) if len(configs) > 1 else configs[0].name
