"""A proxy on loopback before a server that speaks S3; it fails when it is asked to: 500, 503, half a body, no answer at all."""

import http.client
import mmap
import os
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PASS, INTERNAL, BUSY, HALF, LOST, SILENT = range(6)
NAMES = ("an answer", "500", "503", "half a body", "no answer, though it is done", "silence")
CODES = {INTERNAL: (500, "InternalError"), BUSY: (503, "SlowDown")}
SILENT_SECONDS = 3600
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


class FaultyStorage:
    """The proxy, in a process of its own; `fail` may be called at any time.

    Args:
        host: of the server behind it.
        port: of the server behind it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._upstream = (host, port)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.pid = os.fork()
        if self.pid == 0:
            try:
                server.serve_forever()
            finally:
                os._exit(1)
        server.socket.close()

    def fail(self, kind: int, requests: int) -> None:
        """Have so many of the next requests fail; PASS ends it."""
        struct.pack_into("II", self._memory, 0, kind, requests)

    @property
    def failed(self) -> int:
        """How many requests have failed."""
        return int(struct.unpack_from("I", self._memory, 8)[0])

    def take(self) -> int:
        """What comes of the next request."""
        with _LOCK:
            kind, left, failed = struct.unpack_from("III", self._memory)
            if kind == PASS or not left:
                return PASS
            struct.pack_into("III", self._memory, 0, kind, left - 1, failed + 1)
            return int(kind)

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server behind the proxy answers."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


_LOCK = threading.Lock()


def _handler(storage: FaultyStorage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body, kind = self._body(), storage.take()
            if kind == SILENT:
                time.sleep(SILENT_SECONDS)
            if kind in CODES:
                code, name = CODES[kind]
                text = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>asked for</Message></Error>".encode()
                self._answer(code, [("Content-Type", "application/xml")], text, text)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            headers["Content-Length"] = str(len(body))
            status, answered, content = storage.forward(self.command, self.path, headers, body)
            if kind == LOST:
                self._hang_up()
            elif kind == HALF and content and self.command != "HEAD":
                self._answer(status, answered, content, content[: len(content) // 2])
                self._hang_up()
            else:
                self._answer(status, answered, content, content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: bytes) -> None:
            self.send_response(status)
            length = str(len(content))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(sent)
                self.wfile.flush()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
