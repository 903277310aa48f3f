"""Reports served on loopback: the list, a report, and nothing else of the store."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from hubflow.errors import HubflowError
from hubflow.reporting.serving import ReportServer

RUN = "20261128T050607.000001-reviews & <more> ünï"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReportServer]:
    """A server of a store with two runs, one of them with an odd name."""
    for name in ("20261127T050607.000001-reviews", RUN):
        folder = tmp_path / "store" / "runs" / name
        folder.mkdir(parents=True)
        (folder / "report.html").write_text(f"<html>{name}", encoding="utf-8")
        (folder / "run.json").write_text("{}", encoding="utf-8")
        (folder / "other.txt").write_text("not served", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("not served", encoding="utf-8")
    with ReportServer(str(tmp_path / "store")) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(
    server: ReportServer, path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    content = answer.read().decode("utf-8")
    connection.close()
    return answer.status, content, answer.headers


def test_the_first_page_lists_the_runs_and_each_link_opens(server: ReportServer) -> None:
    status, page, headers = get(server, "/")
    assert status == 200
    assert page.index("reviews &amp; &lt;more&gt; ünï, 2026-11-28 05:06 UTC") < page.index("reviews, 2026-11-27 05:06 UTC")
    assert f'href="/runs/{quote(RUN)}/report.html"' in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, report, headers = get(server, f"/runs/{quote(RUN)}/report.html")
    assert (status, report) == (200, f"<html>{RUN}")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert get(server, f"/runs/{quote(RUN)}/run.json")[:2] == (200, "{}")
    assert get(server, f"/runs/{quote(RUN)}/report.html", method="HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        *("/runs/", "/runs/absent/report.html", f"/runs/{quote(RUN)}/other.txt", "/runs/../../secret.txt", "//secret.txt"),
        *("/runs/%2e%2e/secret.txt", "/runs/%2e%2e%2f%2e%2e/secret.txt", "/runs/../report.html", "/../secret.txt", "/%00"),
    ],
)
def test_nothing_else_is_served(server: ReportServer, path: str) -> None:
    status, content, _ = get(server, path)
    assert status == 404
    assert "not served" not in content


def test_a_page_of_another_site_reads_nothing_and_nothing_is_taken(server: ReportServer) -> None:
    assert get(server, "/", host="evil.example")[0] == 421
    assert get(server, "/", method="POST")[0] == 501


def test_a_taken_port_is_told(server: ReportServer, tmp_path: Path) -> None:
    with pytest.raises(HubflowError, match=f"port {server.server_port} cannot be used"):
        ReportServer(str(tmp_path / "store"), server.server_port)
