"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_SECONDS = 10.0
# The pace is that of so many updates and seconds at least: measures, which come last, take other
# times than epochs, and a few of them say little of the next group's.
RECENT, RECENT_SECONDS = 20, 60.0


class Tracker:
    """Reports steps of a known total under a changing description.

    On a terminal a bar; elsewhere one line when a description begins and every ten seconds; with
    ``quiet`` nothing. Use as a context manager.
    """

    def __init__(self, console: Console, title: str, total: int, *, quiet: bool = False):
        self.console, self.title, self.total, self.done = console, title, total, 0
        self.quiet = quiet
        self.last_line = time.monotonic()
        self.last_text = ""
        self.begun: int | None = None
        self.recent: deque[tuple[int, float]] = deque()
        self.bar = None
        if console.is_terminal and not quiet:
            text, pace = (
                TextColumn(f"{{task.{x}}}", markup=False) for x in ("description", "fields[pace]")
            )
            columns = (text, BarColumn(), MofNCompleteColumn(), pace)
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task(title, total=total, pace="")

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def update(self, done: int, text: str, detail: str = "") -> None:
        """Say that ``done`` of the total are done, and what is being worked on."""
        self.done = done
        now = time.monotonic()
        if self.begun is None:
            self.begun = done
        elif done > (self.recent[-1][0] if self.recent else self.begun):
            self.recent.append((done, now))
            while len(self.recent) > RECENT and now - self.recent[1][1] >= RECENT_SECONDS:
                self.recent.popleft()
        if self.quiet:
            return
        if self.bar:
            pace = self.pace(done, now)
            self.bar.update(self.task, completed=done, description=f"{text} {detail}", pace=pace)
            return
        if text == self.last_text and now - self.last_line < LINE_SECONDS:
            return
        self.last_text, self.last_line = text, now
        line = f"{self.title} {done}/{self.total}: {text} {detail}".rstrip()
        self.console.print(line + self.pace(done, now), soft_wrap=True)

    def pace(self, done: int, now: float) -> str:
        """Rate and time that is left by the latest steps, once some after the first are timed.

        The first one compiles.
        """
        first, since = self.recent[0] if self.recent else (done, now)
        if done <= first or now <= since:
            return ""
        rate = (done - first) / (now - since)
        speed = f"{rate:.2g}" if rate < 10 else f"{rate:.0f}"
        return f" ({speed}/s, about {duration((self.total - done) / rate)} left)"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
