"""Stores of nightly runs as they are seen from outside of hubflow: what in them is half, lost or held, and what they hold."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "reviews"
KEY, SECRET = "AKIAHUBFLOW", "not-a-secret"
SEALED = ("datasets", "modules", "encoded", "tasks", "checkpoints", "evaluations", "exports", "verdicts", "samples")
EQUAL = ("datasets", "modules", "encoded", "tasks", "checkpoints")
"""Kinds whose manifests are the same in each series, bit for bit."""
MEASURED = ("card.md", "card.html", "verification.json")
"""Files of an export that hold seconds and memory; its manifest, and the names of what is made from it, differ with them."""
TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z|\+00:00)?")
NOTHING_BEFORE = re.compile(r"There was nothing to compare with: [^\"<]*")
"""Of the first data set, which an earlier try may have kept."""
DISK_BYTES = 64 << 20


@dataclass(frozen=True)
class Home:
    """A store that nights run over, in a folder of its own.

    Attributes:
        address: of the store.
        folder: for the store or its caches, and the log of its nights.
        endpoint: of the server that speaks S3; None for a store on disk.
        seen: the address of that server that nights are given, which may be a proxy's.
        disk: where a disk of the store's own is mounted; None for none.
    """

    address: str
    folder: Path
    endpoint: str | None = None
    seen: str | None = None
    disk: Path | None = None

    @classmethod
    def made(cls, folder: Path, endpoint: str | None, seen: str | None, on_disk: bool) -> "Home":
        """Make an empty one."""
        folder.mkdir()
        if endpoint is None:
            disk = folder / "disk"
            if on_disk:
                disk.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(disk)], check=True)
            return cls(str((disk if on_disk else folder) / "store"), folder, disk=disk if on_disk else None)
        home = cls(f"s3://b{uuid.uuid4().hex}/store", folder, endpoint, seen or endpoint)
        home._client().create_bucket(Bucket=home._bucket)
        return home

    @property
    def is_remote(self) -> bool:
        """Whether it lies on object storage."""
        return self.endpoint is not None

    def environment(self, machine: str) -> dict[str, str]:
        """Variables of the environment for a night on a machine with a cache of its own."""
        if self.seen is None:
            return {}
        return {
            "HUBFLOW_STORE_CACHE": str(self.folder / "caches" / machine),
            "AWS_ENDPOINT_URL": self.seen,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def files(self) -> dict[str, bytes]:
        """Every file of the store, hidden ones too."""
        if not self.is_remote:
            return files_below(Path(self.address))
        client = self._client()
        return {
            key.removeprefix("store/"): client.get_object(Bucket=self._bucket, Key=key)["Body"].read() for key in self._keys()
        }

    def roots(self) -> list[Path]:
        """Folders of this machine that hold sealed folders."""
        return sorted((self.folder / "caches").glob("*/*/")) if self.is_remote else [Path(self.address)]

    def fill_disk(self) -> None:
        """Take all free space of its disk."""
        assert self.disk is not None
        with (self.disk / "filler").open("ab", buffering=0) as stream:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while stream.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def free_disk(self) -> None:
        """Give the space back."""
        if self.disk is not None:
            (self.disk / "filler").unlink(missing_ok=True)

    def age_hidden(self) -> None:
        """Have what is left over be of yesterday, as it is when the next night begins."""
        when = time.time() - 86_400
        for root in self.roots():
            for path in root.rglob(".*"):
                for one in (*path.rglob("*"), path):
                    os.utime(one, (when, when))

    def unmount(self) -> None:
        """Give its disk up, with all that is on it."""
        if self.disk is not None:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def remove(self) -> None:
        """Remove all of it."""
        if self.is_remote:
            for key in self._keys():
                self._client().delete_object(Bucket=self._bucket, Key=key)
            self._client().delete_bucket(Bucket=self._bucket)
        self.unmount()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _bucket(self) -> str:
        return self.address.split("/")[2]

    def _keys(self) -> list[str]:
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def _client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)


def files_below(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by its path from there."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def faults_in_store(home: Home, allowed: Sequence[str | None], exports: Mapping[str, Any]) -> list[str]:
    """What is half, lost or held in a store that no process works on.

    Args:
        home: the store.
        allowed: exports that the deployed pointer may name.
        exports: the state of the undisturbed series, which knows what these hold.
    """
    files = home.files()
    faults = [*_broken(files, ""), *_half_reports(files)]
    for root in home.roots():
        if home.is_remote:
            faults += _broken(files_below(root), f"{root.parent.name}: ")
        faults += _folders_without_manifest(root)
        faults += _held_locks(root)
    pointer = _json(files, f"deployed/{NAME}.json", faults)
    if pointer:
        used = pointer["history"][-1]["export"]
        path = used and used["path"]
        if path not in allowed:
            faults.append(f"the deployed pointer names {path}, expected one of {allowed}")
        elif path is not None and hashlib.sha256(files.get(f"{path}/manifest.json", b"")).hexdigest() != used["sha256"]:
            faults.append(f"the deployed pointer names {path}, which is not there")
        elif (
            path is not None and not faults and state_of(files).get(f"{path}/manifest.json") != exports[f"{path}/manifest.json"]
        ):
            faults.append(f"the deployed pointer names {path}, which differs from that of the undisturbed series")
    elif None not in allowed:
        faults.append("the deployed pointer is gone")
    _json(files, f"nightly/{NAME}.json", faults)
    return faults


def _json(files: Mapping[str, bytes], path: str, faults: list[str]) -> dict[str, Any]:
    try:
        return dict(json.loads(files[path])) if path in files else {}
    except ValueError as error:
        faults.append(f"{path} is no JSON ({error})")
        return {}


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _broken(files: Mapping[str, bytes], where: str) -> list[str]:
    """Sealed folders that are not as their manifest says."""
    faults = []
    for path in (path for path in files if path.endswith("/manifest.json") and path.count("/") == 2):
        folder = path.rpartition("/")[0]
        if _is_hidden(path) or folder.split("/")[0] not in SEALED:
            continue
        try:
            named = json.loads(files[path])["files"]
        except (ValueError, KeyError) as error:
            faults.append(f"{where}{path}: no manifest ({error})")
            continue
        for name, known in named.items():
            content = files.get(f"{folder}/{name}")
            if content is None or hashlib.sha256(content).hexdigest() != known["sha256"]:
                faults.append(
                    f"{where}{folder}/{name}: {'missing' if content is None else 'altered'}, but its manifest is there"
                )
    return faults


def _half_reports(files: Mapping[str, bytes]) -> list[str]:
    """Reports of a run that are listed as whole and are not."""
    faults = []
    for path in (path for path in files if path.startswith("runs/") and path.endswith("/run.json") and not _is_hidden(path)):
        try:
            json.loads(files[path])
        except ValueError as error:
            faults.append(f"{path} is no JSON ({error})")
        page = files.get(f"{path.rpartition('/')[0]}/report.html")
        if page is None or not page.rstrip().endswith(b"</html>"):
            faults.append(f"{path}: its page is {'missing' if page is None else 'half'}")
    return faults


def _folders_without_manifest(root: Path) -> list[str]:
    faults = []
    for kind in SEALED:
        for folder in (root / kind).glob("*/"):
            if not folder.name.startswith(".") and not (folder / "manifest.json").is_file():
                faults.append(f"{folder}: no manifest")
    for folder in (root / "runs").glob("*/"):
        if not folder.name.startswith(".") and not (folder / "run.json").is_file():
            faults.append(f"{folder}: a report without run.json")
    return faults


def _held_locks(root: Path) -> list[str]:
    faults = []
    for path in root.rglob("*.lock"):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                faults.append(f"{path}: the lock is held")
    return faults


def state_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What a store holds, without times and what is derived from them."""
    state: dict[str, Any] = {"evaluations": [], "samples": []}
    for path in files:
        kind, *rest = path.split("/")
        if rest[-1:] == ["manifest.json"] and not _is_hidden(path):
            inner = {name: known["sha256"] for name, known in json.loads(files[path])["files"].items()}
            if kind in EQUAL:
                state[path] = hashlib.sha256(files[path]).hexdigest()
            elif kind == "exports":
                state[path] = sorted(pair for pair in inner.items() if pair[0] not in MEASURED)
            elif kind in ("evaluations", "samples"):
                state[kind].append(sorted(inner.items()))
        if kind in ("quarantine", "data-reports") and not _is_hidden(path):
            text = NOTHING_BEFORE.sub("", TIMES.sub("", files[path].decode("latin-1")))
            state[path] = hashlib.sha256(text.encode("latin-1")).hexdigest()
    state["evaluations"].sort()
    state["samples"].sort()
    faults: list[str] = []
    pointer = _json(files, f"deployed/{NAME}.json", faults)
    moves = [one for one in pointer.get("history", [])]
    state["pointer"] = [
        (move["action"], move["export"] and move["export"]["path"], move["checkpoint"] and move["checkpoint"]["sha256"])
        for move in _without_undone(moves)
    ]
    state["profiles"] = [
        (kept["key"], kept["content"])
        for path in sorted(path for path in files if path.startswith("profiles/") and not _is_hidden(path))
        for kept in [json.loads(files[path])]
    ]
    runs = [json.loads(files[path]) for path in sorted(files) if path.startswith("runs/") and path.endswith("/run.json")]
    state["reports"] = [(run["export"]["path"], run["verdict"]["verdict"]) for run in runs]
    state["changes"] = [_since(files[path]) for path in sorted(files) if path.startswith("runs/") and path.endswith(".html")]
    record = _json(files, f"nightly/{NAME}.json", faults)
    state["record"] = (record.get("fingerprint"), record.get("is_done"), (record.get("verdict") or {}).get("verdict"))
    return state


def _since(page: bytes) -> str:
    """The part of a report's page on the run before, without times."""
    found = re.search(r'<h2 id="changes">.*?(?=<h2 )', page.decode(), re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", TIMES.sub("", found[0])).split()) if found else "no such part"


def _without_undone(moves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Moves of the pointer but promotions that were taken back."""
    kept: list[Mapping[str, Any]] = []
    for move in moves:
        if move["action"] == "undone":
            kept.pop()
        else:
            kept.append(move)
    return kept


def compared(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """How two states differ."""
    return [
        f"{name}: {found.get(name)} instead of {expected.get(name)}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def leftovers(root: Path) -> list[str]:
    """Hidden files and folders that are no locks."""
    return [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if _is_hidden(path.relative_to(root).as_posix()) and path.suffix != ".lock"
    ]
