"""Sockets that take connections or datagrams, of a process and all below it, read from /proc."""

import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from process_tree import children_of

LISTENS, UNCONNECTED = "0A", "07"
TABLES = {"tcp": LISTENS, "tcp6": LISTENS, "udp": UNCONNECTED, "udp6": UNCONNECTED}

Listener = tuple[str, str, int]
"""Protocol, address and port."""


def listeners_below(pid: int) -> set[Listener]:
    """What the process and all processes below it listen at."""
    pids = [pid]
    for one in pids:
        pids += children_of(one)
    return {listener for one in pids for listener in _listeners_of(one)}


def beyond_loopback(listeners: set[Listener]) -> set[Listener]:
    """Those that other hosts can reach."""
    return {one for one in listeners if not ipaddress.ip_address(one[1].removeprefix("::ffff:")).is_loopback}


@contextmanager
def observed(pid: int) -> Iterator[set[Listener]]:
    """What the process and all below it listen at in the meantime, looked at some fifty times a second."""
    seen: set[Listener] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.02):
            seen.update(listeners_below(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def _listeners_of(pid: int) -> Iterator[Listener]:
    try:
        inodes = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
        tables = {name: Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in TABLES}
    except OSError:  # it has ended
        return
    for name, lines in tables.items():
        for fields in map(str.split, lines):
            if fields[3] == TABLES[name] and f"socket:[{fields[9]}]" in inodes:
                address, _, port = fields[1].partition(":")
                yield name, _address(address), int(port, 16)


def _address(text: str) -> str:
    words = struct.pack(f"={len(text) // 8}I", *(int(text[start : start + 8], 16) for start in range(0, len(text), 8)))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)
