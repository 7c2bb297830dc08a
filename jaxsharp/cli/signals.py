"""What ends a command from outside: Ctrl-C, SIGTERM, a closed terminal, a pipe that nobody reads.

Imports nothing that takes time: it is in force before anything else is imported, by the entry
point, which so stands here.
"""

import os
import signal
import sys

# SIGHUP is what a closed terminal sends; Windows has none.
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

INTERRUPTED = 130
CLOSED_PIPE = 141  # what a shell reports of a process that SIGPIPE ended


class PipeClosed(KeyboardInterrupt):
    """The reader of the output has gone, as in ``jaxsharp study | head``: save and end, quietly."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``jaxsharp``: signals are handled before the commands are imported."""
    handle()
    from jaxsharp.cli import commands

    commands.main(arguments)


def handle() -> None:
    """End the process in one line at a signal, until something runs that has work to save.

    An exception would not do: raised while modules are imported it is printed as a traceback, and
    raised in a callback it is lost. What the caller ignores stays ignored, as SIGHUP under nohup.
    """
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def end(*_) -> None:
    """Say how to go on, and end; nothing half-written counts, as after SIGKILL."""
    ignore()
    os.write(2, b"jaxsharp: interrupted; the same command continues\n")
    os._exit(INTERRUPTED)


def ignore() -> None:
    """Let no signal disturb from here on."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def output_to_nowhere() -> None:
    """Stop writing to a closed pipe, also in what Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
