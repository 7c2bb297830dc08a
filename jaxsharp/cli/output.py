"""Where commands print: no text is markup, and none that cannot be written is an error."""

import codecs
import sys

from rich.console import Console

from jaxsharp.cli import signals

PLAIN = {"±": "+-", "…": "..."}


class Output(Console):
    """A console that prints text as it is, and ends the work where nobody reads on.

    Lines are as long as they are, so that no path in one is broken.
    """

    def __init__(self, **options):
        plain = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**plain, soft_wrap=True, **options)

    def on_broken_pipe(self) -> None:
        """Save what there is, and end."""
        signals.output_to_nowhere()
        raise signals.PipeClosed


def make_console() -> Output:
    """Console that does not cut tables short where its output goes to a file."""
    console = Output()
    return console if console.is_terminal else Output(width=140)


def accept_any_text() -> None:
    """Replace what an output's encoding does not have, and bytes in names that are no text."""
    codecs.register_error("jaxsharp", degraded)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="jaxsharp")


def degraded(error: UnicodeError) -> tuple[str, int]:
    """The plain form of characters that have one, the escaped form of others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return plain, error.end
