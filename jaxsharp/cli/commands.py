"""The commands, and what signals and errors become.

Importing this module imports nothing that computes: signals are handled, and help is printed,
before JAX is there.
"""

import atexit
import importlib
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from jaxsharp.cli import signals


class Command(NamedTuple):
    """Where a command's function stands, and the first line of its docstring.

    ``after`` is the command whose options stand after a --.
    """

    module: str
    function: str
    summary: str
    after: str = ""

    def load(self) -> Callable:
        """The function; its module is imported."""
        return getattr(importlib.import_module(f"jaxsharp.cli.{self.module}"), self.function)


COMMANDS = {
    "study": Command(
        "study.command",
        "run_study",
        "Train a grid of runs, measure the sharpness of each, write tables and figures.",
    ),
    "merge": Command(
        "study.command",
        "merge_parts",
        "Join the parts of a study that were made with --shard, and write its tables and figures.",
    ),
    "submit": Command(
        "submit.command",
        "submit",
        "Submit the shards of a study as a Slurm array and a merge after them, or run them here.",
        "study",
    ),
    "status": Command(
        "run",
        "show_status",
        "Say how far a study is, from another terminal or after it stopped.",
    ),
    "report": Command(
        "run",
        "write_report",
        "Write one HTML page of studies and runs: tables, figures to choose from, settings.",
    ),
    "train": Command(
        "run",
        "train",
        "Train one network in a run directory, or continue an interrupted run there.",
    ),
    "sharpness": Command(
        "sharpness",
        "sharpness",
        "Measure the sharpness of trained runs, into the files of their directories.",
    ),
    "evaluate": Command(
        "evaluate.command",
        "evaluate",
        "Say of each measure in tables of runs what it predicts, beside controls.",
    ),
    "plot": Command(
        "run",
        "plot",
        "Draw loss and accuracy against epoch, of a run with SAM beside one without, say.",
    ),
    "list": Command(
        "run",
        "list_names",
        "List data sets, models, optimizers, SAM variants and measures with one line each.",
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Do what a command line says. JAXSHARP_DEBUG=1 shows tracebacks of errors in the input."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if name in ("-h", "--help"):
            print_commands()
        elif name == "--version":
            print_version()
        else:
            call(name, rest)
    except signals.PipeClosed:
        sys.exit(signals.CLOSED_PIPE)
    except KeyboardInterrupt:
        print("jaxsharp: interrupted; the same command continues", file=sys.stderr)
        sys.exit(signals.INTERRUPTED)


def print_commands() -> None:
    """What the program is, and its commands."""
    from rich.table import Table

    import jaxsharp
    from jaxsharp.cli.output import make_console

    console = make_console()
    console.print(f"usage: jaxsharp COMMAND ...\n\n{jaxsharp.__doc__.splitlines()[0]}\n")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(name, command.summary)
    console.print(table)
    console.print("\njaxsharp COMMAND --help lists the options of a command.")


def print_version() -> None:
    """The versions that decide the numbers."""
    from importlib.metadata import version

    import jaxsharp

    python = ".".join(map(str, sys.version_info[:3]))
    others = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "optax"))
    print(f"jaxsharp {jaxsharp.__version__} ({others}, python {python})")


def call(name: str, arguments: list[str]) -> None:
    """Run a command; an error in its input becomes one line and exit status 2."""

    from jaxsharp.cli.output import accept_any_text
    from jaxsharp.cli.parsing import Beside, bind
    from jaxsharp.core.choices import known
    from jaxsharp.training.members import cores_as_devices, leave

    atexit.register(ignore_signals)
    accept_any_text()
    use_compilation_cache()
    cores_as_devices()
    allow_transfers()
    try:
        command = COMMANDS[known("command", name, COMMANDS)]
        after = command.after
        beside = Beside(f"jaxsharp {after}", COMMANDS[after].load(), "after") if after else None
        bind(command.load(), f"jaxsharp {name}", arguments, beside)()
    except BrokenPipeError:
        signals.output_to_nowhere()
        raise signals.PipeClosed from None
    except Exception as error:
        text = in_one_line(error)
        if text is None or os.environ.get("JAXSHARP_DEBUG"):
            raise
        print(f"jaxsharp: error: {text}", file=sys.stderr)
        leave(2)


def in_one_line(error: Exception) -> str | None:
    """What is wrong with the input or the machine; None for an error in the program itself."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        return str(error).partition("\n")[0]
    if isinstance(error, ValueError | OSError | ModuleNotFoundError):
        return " ".join(str(error).split("\n"))
    if isinstance(error, MemoryError | OverflowError):
        return f"a number is too large for this machine: {' '.join(str(error).split())}"
    try:
        jax.devices()
    except Exception:
        return f"JAX finds no device for JAX_PLATFORMS={jax.config.jax_platforms}"
    return None


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in ~/.cache/jaxsharp unless jax is told otherwise."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if root.startswith("~"):  # there is no home: nothing is kept
            return
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "jaxsharp"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def allow_transfers() -> None:
    """Let arrays move between host and devices, whatever JAX_TRANSFER_GUARD says of programs."""
    import jax

    jax.config.update("jax_transfer_guard", "allow")


def ignore_signals() -> None:
    """Leave the clean-up of JAX at exit in peace; of several processes each may have to wait."""
    import jax

    if not jax.distributed.is_initialized():
        signals.ignore()
