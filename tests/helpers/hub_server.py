"""A server on loopback that serves folders in a model hub's layout, and can cut, alter or refuse what it sends."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_FILES = (".safetensors", ".bin", ".pdparams")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")


@dataclass
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    host: str


@dataclass
class HubServer:
    """The running server; its switches may be turned while it runs. File names in them are bare."""

    endpoint: str
    folders: Mapping[str, Path]
    requests: list[Request] = field(default_factory=list)
    revisions: set[str] = field(default_factory=lambda: {"main"})
    truncate: dict[str, int] = field(default_factory=dict)  # declare and send only so many bytes of the body
    corrupt: set[str] = field(default_factory=set)  # flip a bit of the body
    cut_once: dict[str, int] = field(default_factory=dict)  # close the connection after so many bytes, the first time
    more: dict[str, int] = field(default_factory=dict)  # send so many bytes more than were declared
    listed: list[str] = field(default_factory=list)  # names that are listed beside those of the folder
    plain_etags: bool = False  # declare no hash
    ignore_ranges: bool = False
    redirect_large_files: bool = False  # to the same server under another host name
    token: str | None = None  # needed to read anything
    delay_seconds: float = 0.0  # before each body

    def gets(self, file: str) -> list[Request]:
        """The GET requests for a file, by its bare name."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith(f"/{file}")]

    def commit(self, repo: str) -> str:
        """The commit of a folder: a hash of what it holds."""
        digest = hashlib.sha1(usedforsecurity=False)
        for file in sorted(self.folders[repo].iterdir()):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


@contextmanager
def serve_hub(folder_by_repo: Mapping[str, Path], **switches: Any) -> Iterator[HubServer]:
    """Serve each folder as the repository `org/name`; use the yielded `endpoint` as HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = HubServer(f"http://127.0.0.1:{server.server_port}", folder_by_repo, **switches)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    @property
    def hub(self) -> HubServer:
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        return hub

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        headers = self.headers
        request = Request(
            self.command, unquote(path), headers.get("Range"), headers.get("Authorization"), headers.get("Host", "")
        )
        self.hub.requests.append(request)
        on_cdn = path.startswith("/cdn/")
        if self.hub.token and not on_cdn and request.authorization != f"Bearer {self.hub.token}":
            self._refuse(401, "RepoNotFound", "Invalid credentials")
        elif on_cdn:
            self._send_file(*path.removeprefix("/cdn/").rsplit("/", 1))
        elif match := RESOLVE.fullmatch(path):
            self._resolve(match["repo"], unquote(match["revision"]), match["file"])
        elif match := INFO.fullmatch(path):
            self._info(match["repo"], unquote(match["revision"] or "main"))
        else:
            self._refuse(404, "EntryNotFound", "Not found")

    def _known(self, repo: str, revision: str) -> bool:
        if repo not in self.hub.folders:
            self._refuse(401, "RepoNotFound", "Repository not found")
            return False
        if revision not in self.hub.revisions and revision != self.hub.commit(repo):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return False
        return True

    def _info(self, repo: str, revision: str) -> None:
        if self._known(repo, revision):
            siblings = [{"rfilename": file.name} for file in sorted(self.hub.folders[repo].iterdir())]
            siblings += [{"rfilename": name} for name in self.hub.listed]
            body = json.dumps({"id": repo, "modelId": repo, "sha": self.hub.commit(repo), "siblings": siblings}).encode()
            self._send(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        if not self._known(repo, revision):
            return
        if not (self.hub.folders[repo] / file).is_file():
            self._refuse(404, "EntryNotFound", f"{file} does not exist")
        elif self.hub.redirect_large_files and file.endswith(LARGE_FILES):
            other_host = self.hub.endpoint.replace("127.0.0.1", "localhost")
            self._send(302, {**self._facts(repo, file), "Location": f"{other_host}/cdn/{repo}/{file}"}, b"")
        else:
            self._send_file(repo, file)

    def _facts(self, repo: str, file: str) -> dict[str, str]:
        content = (self.hub.folders[repo] / file).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        etag = hashlib.sha256(content).hexdigest() if file.endswith(LARGE_FILES) else git
        etag = "no-hash" if self.hub.plain_etags else etag
        facts = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit(repo), "Accept-Ranges": "bytes"}
        if file.endswith(LARGE_FILES):
            facts |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        return facts

    def _send_file(self, repo: str, file: str) -> None:
        content = bytearray((self.hub.folders[repo] / file).read_bytes())
        facts = self._facts(repo, file)
        if self.command == "HEAD":
            self._send(200, facts, bytes(content))
            return
        sleep(self.hub.delay_seconds)
        if file in self.hub.corrupt:
            content[len(content) // 2] ^= 1
        content = content[: self.hub.truncate.get(file, len(content))]
        content += bytes(self.hub.more.get(file, 0))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked and not self.hub.ignore_ranges else 0
        if start >= len(content) and start:
            self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        if asked and not self.hub.ignore_ranges:
            facts["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if "Content-Range" in facts else 200, facts, bytes(content[start:]), self.hub.cut_once.pop(file, None))

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut_after])
        if cut_after is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": message}, b"")
