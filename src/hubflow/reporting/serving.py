"""Reports of a store, served read-only on this machine."""

import html
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

from hubflow.errors import HubflowError
from hubflow.reporting.page import RUNS, SUMMARY
from hubflow.store.store import Store

HOST = "127.0.0.1"
REPORT = "report.html"
TYPES = {REPORT: "text/html; charset=utf-8", SUMMARY: "application/json"}
"""What of a run's folder is served."""
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PATH = re.compile(rf"/{RUNS}/([^/]+)/([^/]+)")


class ReportServer(ThreadingHTTPServer):
    """Serves the reports of a store on loopback: `/` lists the runs, `/runs/<run>/report.html` is a report.

    Nothing else of the store is served, and only requests that name this machine as their host are answered, so that no page of
    another site can read a report.

    Args:
        store: folder, or URL, of the store.
        port: to listen on; 0 takes a free one.

    Raises:
        HubflowError: when the port is taken.
        StoreError: when the store cannot be read.
    """

    daemon_threads = True

    def __init__(self, store: str, port: int = 0) -> None:
        self.store = Store(store)
        self.runs()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise HubflowError(f"port {port} cannot be used ({error}); give another with --port") from error

    @property
    def address(self) -> str:
        """What `report.base_url` is to be, so that links to reports open."""
        return f"http://{HOST}:{self.server_port}"

    def runs(self) -> list[str]:
        """The folders of the runs, the newest first."""
        return self.store.names(RUNS)[::-1]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: ReportServer
    server_version = "hubflow"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the list of runs, a report or its summary."""
        if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "expected 127.0.0.1 as the host")
            return
        path = unquote(self.path.partition("?")[0], errors="replace")
        if path == "/":
            self._send(_index(self.server.runs()).encode("utf-8", "backslashreplace"), TYPES[REPORT])
            return
        found = _PATH.fullmatch(path)
        if found is None or found[2] not in TYPES or found[1] not in self.server.runs():
            self.send_error(HTTPStatus.NOT_FOUND, "no report is here; the first page lists them")
            return
        content = self.server.store.read_bytes(f"{RUNS}/{found[1]}/{found[2]}")
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND, "the report is no longer in the store")
            return
        self._send(content, TYPES[found[2]])

    do_HEAD = do_GET

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def _index(runs: list[str]) -> str:
    lines = "".join(f'<li><a href="/{RUNS}/{quote(run)}/{REPORT}">{html.escape(_title(run))}</a></li>' for run in runs)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Reports</title><style>body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
        f"li{{overflow-wrap:anywhere}}</style><h1>Reports</h1><ul>{lines or '<li>No run has written a report yet.</li>'}</ul>"
    )


def _title(run: str) -> str:
    """Name and time of a run, from the name of its folder."""
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)[\d.]*-(.+)", run)
    return f"{found[6]}, {found[1]}-{found[2]}-{found[3]} {found[4]}:{found[5]} UTC" if found else run
