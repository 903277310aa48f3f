"""Network namespaces with cables to one switch, which stand for hosts."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

NETWORK = "10.213.78"


@dataclass(frozen=True)
class Host:
    """One of them: how a command is run there, and its address in the network of all."""

    within: list[str]
    address: str
    device: str


@contextmanager
def network_of_hosts(count: int) -> Iterator[list[Host]]:
    """Hosts that reach each other and nobody else; the test is skipped where no namespace can be made."""
    mine = f"hf{os.getpid() % 100000}"
    switch = f"{mine}-switch"
    with ExitStack() as stack:
        _add(stack, switch)
        _ip(f"-n {switch} link add hub type bridge")
        _ip(f"-n {switch} link set hub up")
        hosts = []
        for number in range(1, count + 1):
            name, device, plug, address = f"{mine}-{number}", f"net{number}", f"plug{number}", f"{NETWORK}.{number}"
            _add(stack, name)
            _ip(f"-n {switch} link add {plug} type veth peer name {device} netns {name}")
            _ip(f"-n {switch} link set {plug} master hub up")
            _ip(f"-n {name} addr add {address}/24 dev {device}")
            _ip(f"-n {name} link set {device} up")
            _ip(f"-n {name} link set lo up")
            hosts.append(Host(["ip", "netns", "exec", name], address, device))
        yield hosts


def _add(stack: ExitStack, name: str) -> None:
    _ip(f"netns add {name}")
    stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
