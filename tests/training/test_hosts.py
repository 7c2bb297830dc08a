"""Processes that look for each other: found, or one line."""

import socket
import threading
import time

import pytest

from jaxsharp.training.hosts import Hosts, join, wait_for


@pytest.mark.parametrize(
    "address", ["node", "node:", "node:0", "node:65536", "node:99999", "node:x", ":1", "", "a b:1"]
)
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="it must be HOST:PORT") as refused:
        Hosts(address, 2, 1).check()
    assert repr(address) in str(refused.value)


def test_addresses():
    for address in ("node:1", "10.0.0.1:65535", "[::1]:1234", "node-1.cluster:1234"):
        Hosts(address, 2, 1).check()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_coordinator_that_is_not_there_is_one_line():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match="nothing answers there") as refused:
        wait_for(address, 0.3)
    assert address in str(refused.value) and "\n" not in str(refused.value)


def test_a_coordinator_that_comes_later_is_waited_for():
    port = free_port()

    def serve():
        time.sleep(0.4)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.accept()[0].close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    wait_for(f"127.0.0.1:{port}", 20.0)
    thread.join()


def test_auto_outside_of_a_cluster_is_one_line(monkeypatch):
    def undefined():  # what jax raises there
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", undefined)
    with pytest.raises(ValueError, match="coordinator is auto, and no Slurm") as refused:
        join(Hosts("auto"))
    assert "\n" not in str(refused.value)
