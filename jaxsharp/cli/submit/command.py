"""The command that makes jobs of a study's shards."""

import contextlib
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from jaxsharp.cli.output import make_console
from jaxsharp.cli.parsing import Beside, bind
from jaxsharp.cli.study.asked import Shared, asked, folder_of, prepared
from jaxsharp.cli.study.command import merge_parts, run_study
from jaxsharp.cli.submit import jobs
from jaxsharp.cli.submit.local import run
from jaxsharp.core.choices import at_least_one, checked, counted
from jaxsharp.runs import claims, files
from jaxsharp.studies import merge
from jaxsharp.studies.grid import StudyConfig
from jaxsharp.studies.writing import joined

SET_HERE = ("shard", "out", "fresh")


def submit(
    study: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    shards: int,
    out: Path | None = None,
    local: bool = False,
    processes: int = 1,
    dry_run: bool = False,
    command: str | None = None,
    slurm: Shared[jobs.Slurm] = jobs.Slurm(),
) -> None:
    """Submit the shards of a study as a Slurm array and a merge after them, or run them here.

    jaxsharp submit --shards 8 --time 4:00:00 --partition gpu --out runs/grid -- --seeds 5

    jaxsharp submit --shards 2 --local --processes 2 --out runs/grid -- --optimizers sgd,adam

    Again with more --epochs after --, and its --out, all shards are trained on and merged anew.

    Args:
        study: Options of `jaxsharp study`, after --.
        shards: Parts of the grid, a job each.
        out: Folder of the whole study; by default that of `jaxsharp study`. Parts, scripts and logs
            go to OUT-parts.
        local: Run the shards here instead, and merge them.
        processes: Shards that run here at once.
        dry_run: Print what would be done, and do nothing.
        command: How the jobs call jaxsharp, by default this Python with -m jaxsharp.
    """
    checked(slurm)
    at_least_one("shards", shards)
    at_least_one("processes", processes)
    if local and slurm != jobs.Slurm():
        raise ValueError("time, partition, sbatch, setup and grace are Slurm's; local has none")
    if not local and processes != 1:
        raise ValueError(f"processes is {processes} without local; Slurm runs what it has room for")
    beside = Beside("jaxsharp submit", submit, "before")
    given = bind(run_study, "jaxsharp study", [*study], beside).keywords
    for option in SET_HERE:
        if given[option]:
            raise ValueError(f"--{option} stands after --; it is not for all shards")
    wanted = asked(**given)
    configs = wanted.configs
    runs = [len(config.members()) for config in configs]
    if shards > min(runs):
        raise ValueError(f"shards is {shards} of {counted(min(runs), 'run')}; take fewer parts")
    study = study if given["quiet"] else (*study, "--quiet")
    out = (out or Path("runs") / folder_of(configs)).absolute()
    plan = jobs.Plan(study, shards, out, called(command))
    for folder in (plan.out, plan.folder):
        claims.check_outside(folder)
    check_folders(plan, configs)
    if not local:  # shards that run here say it at once, and share the device with no other
        prepared(wanted, given["training"], given["data_dir"])
    texts = {} if local else jobs.scripts(plan, slurm)
    console = make_console()
    indices = range(1, shards + 1)
    if dry_run:
        lines = [shlex.join(plan.train(i)) for i in indices] + [shlex.join(plan.merge)]
        named = [f"# {file}\n{text}" for file, text in texts.items()]
        return console.print("\n".join(lines if local else named))
    plan.folder.mkdir(parents=True, exist_ok=True)
    if local:
        run({plan.log(i): plan.train(i) for i in indices}, processes)
        parts = tuple(plan.part(i) for i in indices)
        return merge_parts(parts, out=plan.out, figures=given["figures"])
    for file, text in texts.items():
        files.write_text(file, text)
    array, last = texts
    if not jobs.has_slurm():
        console.print(f"there is no sbatch here; written: {array}, {last}")
        return
    first, last = jobs.submit([array, last])
    console.print(
        f"job {first}: {counted(shards, 'shard')} of {counted(sum(runs), 'run')} into "
        f"{plan.folder}; job {last} merges them into {plan.out}"
    )


def check_folders(plan: jobs.Plan, configs: list[StudyConfig]) -> None:
    """Raise RunError unless the folders of the whole and of its parts can take these studies.

    Each is empty or absent, or has the study that is asked for, or that with fewer epochs.
    """

    def check(folder: Path, shard: str | None) -> None:
        several = len(configs) > 1
        if several:
            joined.check_folder(folder, configs)
        for config in configs:
            place = folder / joined.folder_name(config) if several else folder
            wanted = replace(config, shard=shard)
            with contextlib.suppress(claims.DamagedConfigError):  # which is mended
                found = merge.begun(place, wanted).as_dict()
                claims.is_claimed(place, found, advice=merge.ADVICE)

    check(plan.out, None)
    for index in range(1, plan.shards + 1):
        if plan.part(index).is_dir():
            check(plan.part(index), f"{index}/{plan.shards}")


def called(command: str | None) -> tuple[str, ...]:
    """How jaxsharp is called, word by word; ValueError for a text that a shell would not read."""
    if command is None:
        return sys.executable, "-m", "jaxsharp"
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"command is {command!r}: {error}") from None
    if not words:
        raise ValueError(
            "command is empty; it must be how jaxsharp is called, as in 'srun jaxsharp'"
        )
    return tuple(words)
