"""Ctrl-C and its like at the end of an epoch or a measure instead of in its middle.

Nor would an exception be sure to arrive: where Python runs again after a long computation is often
in a callback of its garbage collector, and what is raised there is printed and forgotten.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SIGHUP is what a closed terminal sends; Windows has none.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Note:
    """A handler that notes signals: it says so at the first, and stops at once at the second."""

    def __init__(self):
        self.seen: list[int] = []
        self.before: dict[int, signal.Handlers | Callable] = {}

    def __call__(self, number: int, frame) -> None:
        self.seen.append(number)
        if len(self.seen) > 1:
            stop_at_once(number, frame, self.before[number])
        print("jaxsharp: finishing the epoch or measure; again to stop at once", file=sys.stderr)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yield `requested()`: whether the user asked to stop while the block runs.

    The first signal is noted, and said to be; the second stops at once. One that the block did not
    ask for until its end is passed on to what would have had it without the block. Outside of the
    main thread, which alone gets signals, nothing is changed; what is ignored (SIGHUP under nohup)
    stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    note = Note()
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    note.before = {number: signal.signal(number, note) for number in heard}
    try:
        yield lambda: bool(note.seen)
    finally:
        for number, handler in note.before.items():
            signal.signal(number, handler)
    if note.seen:
        pass_on(note.seen[0], note.before[note.seen[0]])


def stop_at_once(number: int, frame, handler) -> None:
    """What the outermost handler does, or KeyboardInterrupt where that is not Python's."""
    while isinstance(handler, Note):
        handler = handler.before[number]
    if callable(handler):
        handler(number, frame)
    raise KeyboardInterrupt


def pass_on(number: int, handler) -> None:
    """Note a signal one block further out, or let it have its effect."""
    if isinstance(handler, Note):
        handler.seen.append(number)
    else:
        os.kill(os.getpid(), number)
