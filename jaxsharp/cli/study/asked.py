"""What the options of a study ask for, checked."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import tyro

from jaxsharp.analysis import canvas
from jaxsharp.analysis.hypotheses import Hypothesis
from jaxsharp.cli.parsing import naming
from jaxsharp.cli.sources import Pair, pairs_of
from jaxsharp.core.choices import at_least_one, checked, known_list, width_of
from jaxsharp.data import datasets, own
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES
from jaxsharp.networks import models
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs.config import SAM
from jaxsharp.studies import sweep
from jaxsharp.studies.grid import StudyConfig, parse_shard, parse_vary
from jaxsharp.studies.grid.registration import hypotheses_of
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


def folder_of(configs: Sequence[StudyConfig]) -> str:
    """What the folder of a study, or of several, is called."""
    return joined.name_of(configs) if len(configs) > 1 else configs[0].name
