"""Run the commands of the pages about production: PostgreSQL, authentication, a worker, a block, a run, dump, restore.

It takes two minutes and needs PostgreSQL's programs (on Debian the package `postgresql`): it is run by hand, not by the gate.
Clusters are not to be run by root: then it is the user `postgres` who runs this one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("helpers", "flows")]

import boto3
from object_storage import KEY, SECRET, s3_server
from postgres import INSTALL, cluster, postgres_tools
from prefect_processes import FENCE, Block, World, world

PROJECT = Path(__file__).parents[1]
BY_HAND = ("by-hand", "script")
BUCKET = "hubflow"
PAGES = ("postgresql", "s3", "production")


def main() -> None:
    """Run every block that is for this machine, and look at what is left."""
    if postgres_tools() is None:
        sys.exit(INSTALL)
    text = "\n".join((PROJECT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES)
    blocks = [Block(script, kind) for kind, script in FENCE.findall(text) if kind not in BY_HAND]
    with tempfile.TemporaryDirectory(prefix="hubflow-production-") as folder, s3_server() as endpoint:
        home = Path(folder) / "home"
        home.mkdir()
        client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET)
        client.create_bucket(Bucket=BUCKET)
        os.environ |= {"S3_KEY": KEY, "S3_SECRET": SECRET, "S3_ENDPOINT": endpoint, "PGPASSWORD": "change-me-too"}
        with cluster(os.environ["PGPASSWORD"]) as port, world(home, PROJECT) as here:
            for block in blocks:
                run(here, block.script.replace("5432", str(port)), block.kind == "keep-running")
            require_no_secret(home)
        kept = [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any("/exports/" in name and name.endswith("manifest.json") for name in kept), kept
    assert any("/runs/" in name and name.endswith("report.html") for name in kept), kept
    print(f"{len(blocks)} blocks of {len(PAGES)} pages ended as they say; the store holds {len(kept)} objects")


def run(here: World, script: str, keeps_running: bool) -> None:
    """Run one block, or start it and wait until it serves."""
    print(f"── {script.strip()}", flush=True)
    if not keeps_running:
        print(here.run(script).strip(), flush=True)
        return
    here.keep_running(script)
    if "server start" in script:
        here.wait_for("server", lambda: answers(here.port))


def answers(port: int) -> bool:
    """Whether the server answers, be it that a password is needed."""
    asked = ["curl", "-s", "-u", "admin:change-me", f"http://127.0.0.1:{port}/api/ready"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def require_no_secret(home: Path) -> None:
    """The storage's secret is in no file that server, worker, run and clients have written."""
    told = [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not told, told
    assert list(home.rglob("profiles.toml")), "nothing was written here"


if __name__ == "__main__":
    main()
