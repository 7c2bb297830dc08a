"""The commands, and what signals and errors become.

Importing this module imports nothing that computes: signals are handled, and help is printed,
before JAX is there.
"""

import atexit
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """Where a command's function stands, and the first line of its docstring."""

    module: str
    function: str
    summary: str


COMMANDS = {
    "study": Command(
        "study",
        "run_study",
        "Train a grid of runs, measure the sharpness of each, write tables and figures.",
    ),
    "merge": Command(
        "study",
        "merge_parts",
        "Join the parts of a study that were made with --shard, and write its tables and figures.",
    ),
    "status": Command(
        "study",
        "show_status",
        "Say how far a study is, from another terminal or after it stopped.",
    ),
    "train": Command(
        "run",
        "train",
        "Train one network in a run directory, or continue an interrupted run there.",
    ),
    "sharpness": Command(
        "run",
        "sharpness",
        "Measure the sharpness of a trained run, into the file sharpness.csv of its directory.",
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
    """Entry point of ``jaxsharp``. JAXSHARP_DEBUG=1 shows tracebacks of errors in the input."""
    signal.signal(signal.SIGTERM, interrupt)
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if name in ("-h", "--help"):
            print_commands()
        else:
            call(name, rest)
    except KeyboardInterrupt:
        print("jaxsharp: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def print_commands() -> None:
    """What the program is, and its commands."""
    from rich.console import Console
    from rich.table import Table

    import jaxsharp

    console = Console(highlight=False)
    console.print(f"usage: jaxsharp COMMAND ...\n\n{jaxsharp.__doc__.splitlines()[0]}\n")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, command in COMMANDS.items():
        table.add_row(name, command.summary)
    console.print(table)
    console.print("\njaxsharp COMMAND --help lists the options of a command.")


def call(name: str, arguments: list[str]) -> None:
    """Run a command; an error in its input becomes one line and exit status 2."""
    import jax
    import tyro

    from jaxsharp.core.choices import known
    from jaxsharp.training.members import cores_as_devices, leave

    atexit.register(ignore_signals)
    use_compilation_cache()
    cores_as_devices()
    try:
        command = COMMANDS[known("command", name, COMMANDS)]
        module = importlib.import_module(f"jaxsharp.cli.{command.module}")
        function = getattr(module, command.function)
        tyro.cli(function, prog=f"jaxsharp {name}", args=arguments)
    except (ValueError, OSError, ModuleNotFoundError, jax.errors.JaxRuntimeError) as error:
        if os.environ.get("JAXSHARP_DEBUG"):
            raise
        text = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            text = text.partition("\n")[0]
        print(f"jaxsharp: error: {text}", file=sys.stderr)
        leave(2)


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in ~/.cache/jaxsharp unless jax is told otherwise."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "jaxsharp"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def interrupt(*_) -> None:
    """Treat SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def ignore_signals() -> None:
    """Leave the clean-up of JAX at exit in peace; of several processes each may have to wait."""
    import jax

    if not jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
