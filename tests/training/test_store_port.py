"""The port where ranks on GPUs meet is held to the loopback interface; gloo on a CPU meets at the same store of Paddle."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from hubflow.training import distributed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces of Linux")

RANK = """
    import sys
    from types import SimpleNamespace
    from hubflow.training.distributed import join
    rank, port = map(int, sys.argv[1:])
    calls = []
    def meet(value):
        calls.append(value)
        if len(calls) == 3:
            print("held", flush=True)
            sys.stdin.readline()
    meeting = {"port": port, "addresses": ["127.0.0.1"] * 2, "interface": "lo", "spans_hosts": False}
    join(SimpleNamespace(rank=rank, size=2, shared_memory=None, meeting=meeting, broadcast=meet))
    print("joined", flush=True)
    sys.stdin.readline()
"""
HERE, THERE = "10.213.77.1", "10.213.77.2"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print('connected')"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        number: int = free.getsockname()[1]
    for name, value in {
        "PADDLE_MASTER": f"127.0.0.1:{number}",
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_DISTRI_BACKEND": "gloo",
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        monkeypatch.setenv(name, value)
    return number


@contextmanager
def rank_process(rank: int, port: int) -> Iterator["subprocess.Popen[str]"]:
    endpoints = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
    given = {
        **os.environ,
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
    }
    command = [sys.executable, "-c", textwrap.dedent(RANK), str(rank), str(port)]
    with subprocess.Popen(command, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def another_host() -> Iterator[list[str]]:
    """A network namespace with a cable to this host: how to run a command there."""
    name = f"hubflow-test-{os.getpid()}"
    here, there = f"hf{os.getpid() % 100000}a", f"hf{os.getpid() % 100000}b"
    with ExitStack() as stack:
        for command in (
            f"ip netns add {name}",
            f"ip link add {here} type veth peer name {there}",
            f"ip link set {there} netns {name}",
            f"ip addr add {HERE}/30 dev {here}",
            f"ip link set {here} up",
            f"ip -n {name} addr add {THERE}/30 dev {there}",
            f"ip -n {name} link set {there} up",
        ):
            if subprocess.run(command.split(), check=False, capture_output=True).returncode:
                pytest.skip("no network namespace can be made here")
            if "netns add" in command:
                stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
            if "veth" in command:
                stack.callback(subprocess.run, ["ip", "link", "del", here], check=False, capture_output=True)
        yield ["ip", "netns", "exec", name]


@pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="needs root and iproute2")
def test_another_host_cannot_reach_the_store(port: int) -> None:
    with another_host() as there, rank_process(0, port) as first, rank_process(1, port) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        connect = [*there, sys.executable, "-c", CONNECT, HERE, str(port)]
        assert first.stdout.readline() == "held\n"
        assert f"0.0.0.0%lo:{port}" in _listening()
        tried = subprocess.run(connect, capture_output=True, text=True, check=False)
        assert "refused" in tried.stderr, tried
        for rank in (first, second):
            assert rank.stdin is not None
            rank.stdin.write("\n")
            rank.stdin.flush()
        assert second.stdout.readline() == "held\n"
        assert second.stdout.readline() == first.stdout.readline() == "joined\n"  # this host still can
        with socket.create_server(("0.0.0.0", 0)) as open_to_all:  # noqa: S104  # the cable works
            reach = [*there, sys.executable, "-c", CONNECT, HERE, str(open_to_all.getsockname()[1])]
            assert subprocess.run(reach, capture_output=True, text=True, check=False).stdout == "connected\n"


@pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="needs root and iproute2")
def test_a_connection_that_came_before_the_port_was_held_ends_the_run() -> None:
    with another_host() as there, socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104
        port = listener.getsockname()[1]
        distributed._hold_to("lo", port, {"127.0.0.1"})
        with subprocess.Popen([*there, sys.executable, "-c", CONNECT, HERE, str(port)], stderr=subprocess.PIPE) as refused:
            assert b"refused" in refused.communicate()[1]
    with another_host() as there, socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104
        port = listener.getsockname()[1]
        assert subprocess.run([*there, sys.executable, "-c", CONNECT, HERE, str(port)], check=True, capture_output=True).stdout
        accepted, _ = listener.accept()
        with accepted, pytest.raises(distributed.RendezvousError, match=f"port {port}, .* has a connection from {THERE}"):
            distributed._hold_to("lo", port, {"127.0.0.1"})


def _listening() -> str:
    return subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=True).stdout
