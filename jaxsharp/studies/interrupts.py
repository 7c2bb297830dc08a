"""Ctrl-C and SIGTERM at the end of an epoch or a measure instead of in its middle.

Nor would an exception be sure to arrive: where Python runs again after a long computation is often
in a callback of its garbage collector, and what is raised there is printed and forgotten.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yield `requested()`: whether the user asked to stop while the block runs.

    The first signal is noted, and said to be; the second raises KeyboardInterrupt at once. Outside
    of the main thread, which alone gets signals, nothing is changed.
    """
    seen: list[int] = []

    def note(number, _):
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        print("jaxsharp: finishing the epoch or measure; again to stop at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
