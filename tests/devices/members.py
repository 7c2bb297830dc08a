"""Run by `test_devices`: a group of runs, trained and measured on one device and on eight.

    members.py FOLDER                   8 devices in this process: one of them, then all
    members.py FOLDER ADDRESS INDEX     process INDEX of 2, with 4 devices each: all of them

Leaves the runs in FOLDER/LAYOUT, and prints the names of those that this process has saved.
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax

from jaxsharp import studies
from jaxsharp.core import budget
from jaxsharp.measures import Options
from jaxsharp.runs import RunConfig, Settings, claims, directory
from jaxsharp.studies import measuring, sweep
from jaxsharp.studies.workbench import workbench
from jaxsharp.training.members import barrier
from tests.devices.simulated import make_devices
from tests.tinynets import tiny_dataset

SETTINGS = Settings(epochs=2, batch_size=8, last_batch="keep", loss_below=None, momentum=0.5)
RATES = (0.05, 0.02, 0.01, 1e30, 0.1, 0.2)  # one diverges; neither 8 nor 4 divides their number
MEASURES = ("top_eigenvalue", "random_perturbation")
OPTIONS = Options(num_perturbations=4, radius=0.5, eigenvalue_tol=1e-4)
LAYOUTS = {
    "alone": studies.Layout(1),
    "spread": sweep.ANYHOW,
    "two a member": studies.Layout(4, 2),
}


def do_group(folder, layout, rates=RATES):
    """Train and measure the group in a folder, from wherever it stands."""
    bench = workbench(tiny_dataset(num=43), "mlp_1")  # three are left, which two do not share
    configs = [
        RunConfig("tiny", "mlp_1", "heavy_ball", "sam", seed, replace(SETTINGS, learning_rate=rate))
        for seed, rate in enumerate(rates)
    ]
    paths = [folder / config.name for config in configs]
    if jax.process_index() == 0:
        for config, path in zip(configs, paths, strict=True):
            claims.claim_run(path, config)
    barrier()
    sweep.train(configs, paths, bench, save_every=50, layout=layout)
    measuring.measure(configs, paths, bench, MEASURES, OPTIONS, layout=layout)


def main():
    """Do the group in every layout."""
    folder, *process = sys.argv[1:]
    make_devices(*process)
    save = directory.save

    def saved(path, *rest):
        print(f"{path.parent.name}/{path.name}", flush=True)
        save(path, *rest)

    directory.save = saved
    for name, layout in LAYOUTS.items():
        if process and name == "alone":
            continue
        do_group(Path(folder) / name, layout)
    if not process:
        do_group(Path(folder) / "first", sweep.ANYHOW, RATES[:1])
        streamed = replace(budget(), data_bytes=0)
        do_group(Path(folder) / "streamed", studies.Layout(memory=streamed))


main()
