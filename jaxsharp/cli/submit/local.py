"""The shards of a study as processes of this machine, as many at once as is said."""

import subprocess
import time
from pathlib import Path

from jaxsharp.core.choices import shown
from jaxsharp.studies import interrupts

SECONDS = 0.05  # between two looks at the processes


def start(command: list[str], log: Path) -> subprocess.Popen:
    """A process in a group of its own, so that a terminal's Ctrl-C reaches this one alone."""
    with log.open("ab") as file:
        return subprocess.Popen(
            *(command,), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def run(commands: dict[Path, list[str]], processes: int) -> None:
    """Run commands, whose output goes to files, so many at a time.

    Ctrl-C and SIGTERM are passed on once, after which each saves and ends; a second one stops at
    once. Raises KeyboardInterrupt then, and ValueError, after all that run have ended, for a
    command that failed, with the last line that it printed.
    """
    waiting, running, failed = dict(commands), {}, {}
    with interrupts.deferred() as requested:
        told = False
        try:
            while running or (waiting and not failed and not requested()):
                while waiting and len(running) < processes and not failed and not requested():
                    log = next(iter(waiting))
                    running[log] = start(waiting.pop(log), log)
                if requested() and not told:
                    told = True
                    for process in running.values():
                        process.terminate()
                for log in [log for log, process in running.items() if process.poll() is not None]:
                    if code := running.pop(log).returncode:
                        failed[log] = code
                time.sleep(SECONDS * bool(running))
        finally:
            for process in running.values():
                process.terminate()
        if requested():
            raise KeyboardInterrupt
    for log, code in failed.items():
        lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        raise ValueError(f"a shard ended with {code} ({log}) and says {shown(last)}")
