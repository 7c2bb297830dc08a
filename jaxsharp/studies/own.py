"""Studies from Python: the user's own network, data, optimizers and measures, or those by name."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsharp.analysis import canvas
from jaxsharp.core.choices import construct, each_once, known, plain, shown
from jaxsharp.data import datasets
from jaxsharp.data.parts import Dataset
from jaxsharp.measures.contract import Options
from jaxsharp.measures.registry import DEFAULT_MEASURES, MEASURES
from jaxsharp.networks.losses import Loss, name_of
from jaxsharp.networks.models import MODELS
from jaxsharp.networks.network import Network
from jaxsharp.optimizers.registry import OPTIMIZERS
from jaxsharp.runs import losses
from jaxsharp.runs.config import Settings
from jaxsharp.studies import interrupts, study, sweep
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.grid.registration import check_targets, hypotheses_of
from jaxsharp.studies.origins import with_code
from jaxsharp.studies.recipes import make_recipe
from jaxsharp.studies.workbench import workbench

SETTINGS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "loss")
OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


@jax.transfer_guard("allow")
def run(
    network: Network | str,
    dataset: Dataset | str,
    *,
    out: str | Path,
    optimizers: Sequence[Any] = tuple(OPTIMIZERS),
    sam: Sequence[str] = ("none", "sam"),
    seeds: int = 3,
    vary: dict[str, Sequence[int | float | str]] | None = None,
    measures: Sequence[Any] = DEFAULT_MEASURES,
    loss: str | Callable | Loss | None = None,
    name: str = "own",
    fresh: bool = False,
    save_every: int = 50,
    layout: sweep.Layout = sweep.ANYHOW,
    report: Callable[[study.Progress], Any] = lambda progress: None,
    figures: Sequence[str] = ("png",),
    hypotheses: str | Sequence[Any] = (),
    **settings: Any,
) -> study.StudyResult:
    """Train a grid of runs of a network on a data set, measure each, write tables and figures.

    ``network`` is a `networks.Network` (``name`` is what tables call it) or one of
    `networks.MODELS` by name, ``dataset`` a `data.Dataset` or the name of one. ``optimizers`` are
    names, or factories ``f(learning_rate, ...)`` of optax transformations, called by their
    ``__name__``; ``measures`` are names, or functions as `registry.own_measure` takes. ``loss``
    is one of `networks.LOSSES`, or the user's own ``loss(outputs, targets)``; by default the
    network's, which is cross-entropy for classes, and squared error where targets are numbers.
    ``settings`` are those of `runs.Settings` and `measures.Options`, by name: epochs, batch_size,
    learning_rate, schedule, augment, num_perturbations, track, ... ``figures`` are their
    formats, of png, pdf and svg. ``hypotheses`` are texts like "minimum_sharpness:+:gap" (measure,
    sign of Kendall's tau, target), which the folder's config.json registers before the first run.

    The folder ``out`` is that of ``jaxsharp study``: the same call continues what was interrupted,
    and repeats nothing. Every checkpoint knows its data, network and optimizer by their content, so
    that a folder is not continued after one of them changed; a measure of the user's own whose
    function changed is taken anew, with a warning. Ctrl-C finishes the epoch, saves, and
    raises KeyboardInterrupt. Raises ValueError, before anything is written, for what no study can
    have, and RunError for a folder of another one.
    """
    for key in settings:
        known("setting", key, (*SETTINGS, *OPTIONS))
    settings = {key: own_number(value) for key, value in settings.items()}
    settings["save_losses"] = losses.as_text(settings.get("save_losses"))
    if isinstance(settings.get("track"), list | tuple):
        settings["track"] = ",".join(settings["track"])
    own_optimizers = named("optimizer", optimizers, OPTIMIZERS)
    own_measures = named("measure", measures, MEASURES)
    plain("name", name)
    each_once("figure format", tuple(figures), canvas.FORMATS)
    if isinstance(network, str):
        name = known("model", network, MODELS)
    given = construct(Settings, {k: v for k, v in settings.items() if k in SETTINGS})
    options = construct(Options, {k: v for k, v in settings.items() if k in OPTIONS})
    if isinstance(dataset, str):
        sizes = {"train_size": given.train_size, "holdout": given.holdout}
        dataset = datasets.load(dataset, **sizes)
    elif given.train_size is not None or given.holdout:
        raise ValueError("train_size and holdout are of data sets by name; give data.from_arrays")
    bench = workbench(dataset, network, loss)
    size = given.measure_size
    coded = {k: with_code(fn, bench, options, size) for k, fn in own_measures.items()}
    optimizers_too = {**OPTIMIZERS, **own_optimizers}
    bench = bench._replace(optimizers=optimizers_too, measures={**MEASURES, **coded})
    config = StudyConfig(
        dataset=dataset.name,
        model=name,
        optimizers=names_of(optimizers),
        sam=tuple(sam),
        seeds=seeds,
        measures=names_of(measures),
        settings=dataclasses.replace(given, loss=plain("loss", bench.network.loss.name)),
        options=options,
        vary={axis: tuple(map(own_number, values)) for axis, values in (vary or {}).items()},
    )
    config.check()
    stated = hypotheses_of(hypotheses, config, bench.measures) if len(hypotheses) else ()
    check_targets(stated, bench.network)
    sweep.check_layout(layout, bench)
    for first, *_ in config.groups():
        make_recipe(first, bench)
    out = Path(out)
    claim = study.claimed(out, config, fresh=fresh, hypotheses=stated)
    with interrupts.deferred() as requested, claim:

        def tell(progress: study.Progress) -> None:
            if requested():
                raise KeyboardInterrupt
            report(progress)

        return study.conduct(
            *(config, out, bench),
            save_every=save_every,
            layout=layout,
            report=tell,
            figures=figures,
        )


def names_of(given: Sequence[Any]) -> tuple[str, ...]:
    """What optimizers or measures are called in tables."""
    return tuple(each if isinstance(each, str) else name_of(each) for each in given)


def named(kind: str, given: Any, valid: dict) -> dict[str, Callable]:
    """The user's own among names and functions; ValueError for others, and for taken names."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{kind}s are {shown(given)}; they must be a list")
    own = {}
    for each in given:
        if isinstance(each, str):
            known(kind, each, valid)
        elif not callable(each):
            raise ValueError(f"{kind} is {shown(each)}; it must be a name or a function")
        elif (name := plain(kind, name_of(each))) in valid and valid[name] is not each:
            raise ValueError(f"{kind} {name} is called as one of jaxsharp is; rename the function")
        else:
            own[name] = each
    return own


def own_number(value: Any) -> Any:
    """A number of NumPy as one of Python, which JSON and names of runs have; others as they are."""
    return value.item() if isinstance(value, np.generic) else value
