"""A server that speaks S3 on loopback (moto's), a bucket in it, machines that share it, and a network that fails."""

import contextlib
import http.client
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import boto3
import pytest

from hubflow.store.remote import CACHE_VARIABLE

KEY, SECRET = "AKIAHUBFLOW", "not-a-secret-but-told-apart"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A server of this process; gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@dataclass(frozen=True)
class ObjectStorage:
    """One bucket, seen from outside of hubflow."""

    endpoint: str
    bucket: str
    caches: Path
    patch: pytest.MonkeyPatch

    @classmethod
    def prepared(cls, endpoint: str, folder: Path, patch: pytest.MonkeyPatch) -> "ObjectStorage":
        """A new bucket; this process has the credentials in its environment and is machine `one`."""
        made = cls(endpoint, f"bucket-{uuid.uuid4().hex}", folder / "caches", patch)
        for name, value in made.environment.items():
            patch.setenv(name, value)
        made.client.create_bucket(Bucket=made.bucket)
        made.be("one")
        return made

    def forget_credentials(self) -> None:
        """Take the credentials, and what was opened with them, from this process: a block alone has them then."""
        from s3fs import S3FileSystem

        from hubflow.store import remote

        for name in self.environment:
            self.patch.delenv(name)
        self.patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        self.patch.setattr(S3FileSystem, "_cache", {})
        self.patch.setattr(remote, "_writable", set())

    @property
    def environment(self) -> dict[str, str]:
        """What says where the server is and who asks."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def url(self) -> str:
        """URL of a store in it."""
        return f"s3://{self.bucket}/store"

    @property
    def client(self) -> Any:
        """boto3's own."""
        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET)

    def be(self, machine: str) -> None:
        """Have this process be another machine: one that has fetched nothing that others have."""
        self.patch.setenv(CACHE_VARIABLE, str(self.caches / machine))

    def objects(self, prefix: str = "") -> list[str]:
        """Paths in the store of all that the bucket holds below `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"store/{prefix}")
        return [one["Key"].removeprefix("store/") for page in pages for one in page.get("Contents", [])]

    def read(self, path: str) -> bytes:
        """Content of one object."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=f"store/{path}")["Body"].read())

    def put(self, path: str, data: bytes) -> None:
        """Write one object."""
        self.client.put_object(Bucket=self.bucket, Key=f"store/{path}", Body=data)

    def delete(self, path: str) -> None:
        """Remove one object."""
        self.client.delete_object(Bucket=self.bucket, Key=f"store/{path}")


Fault = Literal["reset", "half", "short", "stall", "silence", "lost answer"] | int
"""What happens to a request: the connection is reset; half of the body comes, and then the end, which is declared or not, or
nothing more; nothing comes at all; the request is done, but its answer is lost; or the status of an answer that refuses."""


@dataclass
class FaultyProxy:
    """A proxy on loopback before a server, which does to each request what `fault` says; None lets it pass.

    Attributes:
        endpoint: its own address.
        target: address of the server.
        fault: of a method, the path of the object, and how often this has been asked before.
        requests: what was asked, in order.
    """

    endpoint: str
    target: str
    fault: Callable[[str, str, int], Fault | None] = lambda _method, _path, _times: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy before the server at `target`, in threads of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ProxyHandler)
    server.daemon_threads, server.block_on_close = True, False
    proxy = FaultyProxy(f"http://127.0.0.1:{server.server_port}", target)
    server.proxy = proxy  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _forward(self) -> None:
        proxy: FaultyProxy = self.server.proxy  # type: ignore[attr-defined]
        asked = self.command, urlsplit(self.path).path
        times = proxy.requests.count(asked)
        proxy.requests.append(asked)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.fault(*asked, times)
        if fault == "silence":
            proxy.closing.wait()
        elif fault == "reset":
            self._reset()
        elif isinstance(fault, int):
            self._send(fault, [("Content-Type", "application/xml")], b"<Error><Code>InternalError</Code></Error>")
        else:
            self._answer(proxy, body, fault)

    def _answer(self, proxy: FaultyProxy, body: bytes, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(str(urlsplit(proxy.target).netloc))
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "lost answer":
            self._reset()
        elif fault == "short":
            plain = [(name, value) for name, value in answer.getheaders() if "checksum" not in name.lower()]
            self._send(answer.status, plain, content[: len(content) // 2])
        elif fault in ("half", "stall"):
            self._send(answer.status, answer.getheaders(), content[: len(content) // 2], len(content))
            if fault == "stall":
                proxy.closing.wait()
        else:
            self._send(answer.status, answer.getheaders(), content)

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, declared: int | None = None) -> None:
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(declared or len(content))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        if declared is not None:
            self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward
