"""A small study that is trained and then measured at its checkpoints."""

from dataclasses import replace

from jaxsharp import studies
from jaxsharp.measures import Options
from jaxsharp.runs import Settings
from jaxsharp.studies import study
from jaxsharp.studies.workbench import workbench
from tests.tinynets import mlp, tiny_dataset

MEASURES = ("top_eigenvalue", "gradient_norm")
STUDY = studies.StudyConfig(
    dataset="tiny",
    model="small_mlp",
    optimizers=("sgd", "adam"),
    sam=("none",),
    seeds=2,
    measures=("top_eigenvalue",),
    settings=Settings(epochs=6, batch_size=5, loss_below=None),
)
OPTIONS = Options()
LOSSES = replace(STUDY, settings=replace(STUDY.settings, save_losses="1.06,1.055,1.03,1.015,1e-3"))
TABLES = ("runs.csv", "history.csv", "summary.csv", "correlations.csv")


def bench_of(_=None):
    network = mlp()
    return workbench(tiny_dataset(num=40), "small_mlp")._replace(network=network, trained=network)


def asked(measures=MEASURES, options=OPTIONS):
    return lambda config: (measures, options)


def conducted(out, bench, config, save_every=50, **options):
    with study.claimed(out, config):
        studies.conduct(config, out, bench, save_every=save_every, **options)
    return out
