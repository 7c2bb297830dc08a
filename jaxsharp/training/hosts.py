"""Several processes, on one host or more, that work on one study through `jax.distributed`."""

import re
import socket
import sys
import time
from dataclasses import dataclass

import jax

ADDRESS = re.compile(r"(\S+):([0-9]{1,5})")
ANSWER_S = 60.0  # for the first process to be there
JOIN_S = 300  # for all of them


@dataclass(frozen=True)
class Hosts:
    """Processes that work on one study together, with a folder that all of them see."""

    coordinator: str | None = None
    """Address of the first process, as in node1:1234; auto: what Slurm, Open MPI or a TPU says."""
    num_processes: int | None = None
    """Number of processes, with a coordinator's address."""
    process_id: int | None = None
    """Number of this process, from 0."""

    def check(self) -> None:
        """Raise ValueError for numbers without an address, and an address without numbers."""
        numbers = (self.num_processes, self.process_id)
        if self.coordinator in (None, "auto"):
            if numbers != (None, None):
                raise ValueError(
                    "num_processes and process_id are given without the address of a coordinator"
                )
            return
        found = ADDRESS.fullmatch(self.coordinator)
        if found is None or not 1 <= int(found[2]) <= 65535:
            raise ValueError(
                f"coordinator is {self.coordinator!r}; it must be HOST:PORT with a port from 1 to "
                "65535, as in node1:1234, or auto"
            )
        if None in numbers or not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"num_processes is {self.num_processes} and process_id {self.process_id}; with a "
                "coordinator both are due, the latter from 0 to the former less one"
            )


def join(hosts: Hosts) -> None:
    """Join the other processes; to be called before JAX is used.

    Raises ValueError where nobody answers at the coordinator's address within a minute, and where
    nothing says what ``auto`` should be. The first process waits five minutes for the others.
    """
    if hosts.coordinator is None:
        return
    if hosts.coordinator == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                "coordinator is auto, and no Slurm, Open MPI, Kubernetes or TPU says where it is; "
                "give HOST:PORT, num_processes and process_id"
            ) from error
        return
    if hosts.process_id == 0:
        others = hosts.num_processes - 1
        text = f"waiting up to {JOIN_S} s for {others} more at {hosts.coordinator}"
        print(f"jaxsharp: {text}", file=sys.stderr)
    else:
        wait_for(hosts.coordinator, ANSWER_S)
    jax.distributed.initialize(
        *(hosts.coordinator, hosts.num_processes, hosts.process_id), initialization_timeout=JOIN_S
    )


def wait_for(address: str, seconds: float) -> None:
    """Wait until something answers at an address; ValueError if nothing does in time."""
    host, port = ADDRESS.fullmatch(address).groups()
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() > until or isinstance(error, socket.gaierror):
                raise ValueError(
                    f"coordinator is {address}, and nothing answers there ({error}); the process "
                    "with process_id 0 must run there"
                ) from None
        time.sleep(0.1)
