"""The parts of a study, and the Slurm scripts that train and merge them.

A shard is a job of an array. Some time before its limit Slurm sends it SIGTERM: `jaxsharp study`
then finishes its epoch, saves, and ends, and the script asks for the job to be queued again, in
which the same command goes on. The job that merges depends on all of them.
"""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jaxsharp.core.choices import at_least_one, shown

TIME = re.compile(r"([0-9]{1,4}-)?[0-9]{1,6}(:[0-9]{1,2}){0,2}")
OPTION = re.compile(r"[a-z][a-z0-9-]*(=[\x21-\x7e]+)?")
ODD = "spaces, quotes, %, # and backslashes"
PLAIN = re.compile(r"""[^\s"'%#\\]+""")
PARTITION = re.compile(r"[\w.,-]{1,200}", re.ASCII)
# Of sbatch, which the scripts set themselves.
OWN = (
    *("array", "chdir", "dependency", "job-name", "open-mode", "output", "parsable"),
    *("partition", "requeue", "no-requeue", "signal", "time", "wrap"),
)
# SLURM_JOB_ID is the array's for one of its tasks: by that scontrol would queue all of them again.
TRAIN = """
stopped=
{command} &
child=$!
trap 'stopped=1; trap "" TERM; kill -TERM "$child"' TERM
wait "$child"
code=$?
if [ -n "$stopped" ]; then
  wait "$child"
  code=$?
  if [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"
  fi
fi
exit "$code"
"""


@dataclass(frozen=True)
class Slurm:
    """What the jobs ask Slurm for; ``options`` are more of sbatch's, without their dashes."""

    time: str | None = None
    """Time limit of a job, as sbatch has it: 90, 2:00:00, 1-12:00:00."""
    partition: str | None = None
    """Partition, or several separated by commas."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch without their dashes, as in gres=gpu:1 mem=16G account=lab."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the command, as in "module load cuda"."""
    grace: int = 120
    """Seconds before the time limit at which a job stops, saves and is queued again."""

    def check(self) -> None:
        """Raise ValueError for what is no option of sbatch, or one that the scripts set."""
        if self.time is not None and not TIME.fullmatch(self.time):
            raise ValueError(f"time is {shown(self.time)}; it must be as 90, 2:00:00 or 1-12:00:00")
        if self.partition is not None and not PARTITION.fullmatch(self.partition):
            raise ValueError(f"partition is {shown(self.partition)}; it must be a name")
        for option in self.sbatch:
            if not OPTION.fullmatch(option):
                raise ValueError(
                    f"sbatch has {shown(option)}; its options stand without dashes, as in "
                    "gres=gpu:1 mem=16G"
                )
            if option.partition("=")[0] in OWN:
                raise ValueError(f"sbatch has {shown(option)}, which jaxsharp submit sets itself")
        for line in self.setup:
            if not line.strip() or not line.isprintable():
                raise ValueError(f"setup has {shown(line)}; it must be a line of shell")
        at_least_one("grace", self.grace)


@dataclass(frozen=True)
class Plan:
    """A study in parts: its options, where it goes, and how jaxsharp is called."""

    study: tuple[str, ...]
    shards: int
    out: Path
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the parts lie, the scripts, and what the jobs print."""
        return self.out.with_name(f"{self.out.name}-parts")

    def part(self, index: int | str) -> Path:
        """Folder of a part."""
        return self.folder / f"{index}of{self.shards}"

    def log(self, index: int | str) -> Path:
        """What a part prints."""
        return self.folder / f"{index}of{self.shards}.log"

    def train(self, index: int | str) -> list[str]:
        """The command of a part."""
        shard = ["--shard", f"{index}/{self.shards}", "--out", str(self.part(index))]
        return [*self.command, "study", *self.study, *shard]

    @property
    def merge(self) -> list[str]:
        """The command that joins the parts."""
        parts = [str(self.part(i)) for i in range(1, self.shards + 1)]
        return [*self.command, "merge", *parts, "--out", str(self.out)]


def scripts(plan: Plan, slurm: Slurm) -> dict[Path, str]:
    """The texts of both scripts, by file: of the array, and of the merge."""
    index = "\0"  # which no argument has
    train = shlex.join(plan.train(index)).replace(index, "'\"$SLURM_ARRAY_TASK_ID\"'")
    array = [f"array=1-{plan.shards}", "requeue", f"signal=B:TERM@{slurm.grace}"]
    name = plan.out.name
    log = plan.log("%a")
    for path in (Path.cwd(), plan.folder):
        if not PLAIN.fullmatch(str(path)):
            raise ValueError(
                f"{path} is a path that sbatch does not read; it must have none of {ODD}"
            )
    return {
        plan.folder / "shards.sh": header(slurm, name, log, array) + TRAIN.format(command=train),
        plan.folder / "merge.sh": header(slurm, f"{name}-merge", plan.folder / "merge.log")
        + f"\n{shlex.join(plan.merge)}\n",
    }


def header(slurm: Slurm, name: str, log: Path, more: list[str] | tuple = ()) -> str:
    """What both scripts begin with."""
    options = [f"job-name={name}", f"chdir={Path.cwd()}", f"output={log}", "open-mode=append"]
    options += [f"time={slurm.time}"] * (slurm.time is not None)
    options += [f"partition={slurm.partition}"] * (slurm.partition is not None)
    lines = [f"#SBATCH --{option}" for option in (*options, *more, *slurm.sbatch)]
    return "\n".join(["#!/bin/bash", *lines, *slurm.setup, ""])


def submit(files: list[Path]) -> tuple[str, str]:
    """Give both scripts to sbatch; the numbers of their jobs. ValueError for what it refuses."""
    array, merge = files
    first = sbatch("--parsable", str(array))
    after = f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes"
    try:
        return first, sbatch("--parsable", *after, str(merge))
    except ValueError as error:
        raise ValueError(f"job {first} trains the shards, and none merges them: {error}") from None


def sbatch(*arguments: str) -> str:
    """The number of a job that sbatch takes."""
    done = subprocess.run(["sbatch", *arguments], capture_output=True, text=True, errors="replace")
    number = done.stdout.strip().partition(";")[0]
    if done.returncode or not re.fullmatch(r"[0-9]+", number):
        said = " ".join((done.stderr or done.stdout).split()) or "nothing"
        raise ValueError(f"sbatch ended with {done.returncode} and says {shown(said)}")
    return number


def has_slurm() -> bool:
    """Whether this machine submits jobs."""
    return shutil.which("sbatch") is not None
