"""Three nights by the commands of docs/nightly.md: promoted, skipped, kept back, and a webhook that is told."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_processes import documented_blocks, world

PROJECT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(shutil.which("uv") is None, reason="the documented commands need uv"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are told apart by /proc"),
]


@pytest.fixture
def hooks() -> Iterator[tuple[str, list[Any]]]:
    """A local HTTP server's address, and what was posted to it."""
    posted: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", posted
    server.shutdown()


def test_the_documented_nights_are_promoted_skipped_and_kept_back_and_the_webhook_is_told(
    tmp_path: Path, hooks: tuple[str, list[Any]]
) -> None:
    url, posted = hooks
    nights, shown = [], ""
    with world(tmp_path, PROJECT) as here:
        for block in documented_blocks(PROJECT / "docs" / "nightly.md", "Three nights"):
            script = block.script.replace("https://hooks.example.org/nightly", url)
            if block.kind == "keep-running":
                here.keep_running(script)
                here.wait_for("server", here.is_up)
                continue
            shown = here.run(script)
            if block.kind == "night":
                nights.append(json.loads(shown.splitlines()[-1]))
        here.wait_for("post to the webhook", lambda: bool(posted), 60)
    assert [one["outcome"] for one in nights] == ["promoted", "skipped", "kept_back"]
    assert nights[2]["started_from"] == f"the weights of {nights[0]['candidate']}"
    assert nights[2]["deployed"] == nights[0]["candidate"] != nights[2]["candidate"]
    assert "promoted by flow run" in shown
    assert "hubflow.nightly.kept_back" in posted[0]
    assert "below the +0.5 asked for" in posted[0]
