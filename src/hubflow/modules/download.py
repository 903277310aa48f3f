"""The local folder of a module: fetched from a hub where it is not there, and verified on every use.

A module on disk needs neither a network nor huggingface_hub. Hub modules lie in a cache, one folder for each repository and
revision; a folder is complete once its checksums.json is there, and every file is held to it on every use. A branch such as
`main` therefore stays what it was when first fetched: name a commit to pin it, delete the folder to follow it.
"""

import difflib
import importlib.resources
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hubflow.errors import DownloadError, ModuleError, join_limited
from hubflow.files import read_text
from hubflow.modules.registry import NAME_FORMS, RegistryEntry, find_module, is_short_name
from hubflow.store.manifest import atomic_folder, file_sha256, write_atomically

CHECKSUMS = "checksums.json"
CONFIG = "config.json"


@dataclass(frozen=True)
class Checksums:
    """What was fetched: `sha256` by file name, of one `commit`, with or without `weights`."""

    source: str
    commit: str
    weights: bool
    sha256: Mapping[str, str]

    def verify(self, folder: Path, pins: Mapping[str, str]) -> None:
        """Hold every file to its hash; `pins` come before what was recorded.

        Raises:
            DownloadError: naming the first file that is missing or altered, both hashes and the remedy.
        """
        for name, recorded in self.sha256.items():
            check_file(folder / name, pins.get(name, recorded), folder)

    def save(self, folder: Path) -> None:
        """Write the file as a whole: from then on the folder is complete."""
        content = {"source": self.source, "commit": self.commit, "weights": self.weights, "sha256": dict(self.sha256)}
        write_atomically(folder / CHECKSUMS, (json.dumps(content, indent=1) + "\n").encode())


def read_checksums(folder: Path) -> Checksums | None:
    """The folder's checksums, or None when there are none: the folder is not there or not complete.

    Raises:
        DownloadError: when the file is there but cannot be read, or names a file elsewhere.
    """
    path = folder / CHECKSUMS
    try:
        content = json.loads(read_text(path))
        checksums = Checksums(content["source"], content["commit"], bool(content["weights"]), dict(content["sha256"]))
        if any(Path(name).name != name for name in checksums.sha256):
            raise ValueError("it names a file elsewhere")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"{path}: not readable ({error!r}); delete the folder {folder} to fetch the module again"
        ) from error
    return checksums


def check_file(path: Path, expected: str, folder: Path) -> None:
    """Hold a file of a cached module to its sha256.

    Raises:
        DownloadError: when it is missing or altered.
    """
    found = file_sha256(path) if path.is_file() else "no file"
    if found != expected:
        raise DownloadError(
            f"{path}: not the file that was fetched; expected sha256 {expected}, found {found}. "
            f"Delete the folder {folder} to fetch the module again"
        )


HUB = "hf://"
PACKAGE = "package:"
DEFAULT_REVISION = "main"
_EXPECTED_FILES = (
    "config.json; model.safetensors (or its shards with an index, *.pdparams, pytorch_model.bin); for text also "
    "tokenizer.json, vocab.txt or vocab.json with merges.txt"
)
_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_NO_PINS: Mapping[str, str] = {}


def resolve_module(name: str, revision: str | None = None, pretrained: bool = True) -> Path:
    """The local folder of a module, complete and verified.

    Args:
        name: a folder, a short name (which wins over a folder of that name: write ./ernie for the folder), or
            hf://org/name@revision.
        revision: branch, tag or commit of a hub module.
        pretrained: False fetches no weights.

    Raises:
        ModuleError: for an unknown name, or a folder that is no module.
        DownloadError: when the module cannot be fetched, or its files are not what they were.
    """
    if is_short_name(name):
        return _registered(find_module(name), revision, pretrained)
    if name.startswith(HUB):
        return _hub_folder(*_parse_hub(name, revision), _NO_PINS, pretrained)
    if name.startswith(PACKAGE):
        return _package_folder(name, revision)
    return _given_folder(name, revision)


def cache_home() -> Path:
    """Where hub modules are kept: $HUBFLOW_CACHE, else $XDG_CACHE_HOME/hubflow, else ~/.cache/hubflow."""
    own = os.environ.get("HUBFLOW_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(shared).expanduser() if shared else Path.home() / ".cache").absolute() / "hubflow"
    except RuntimeError as error:
        raise DownloadError(f"there is no home folder for the cache of modules ({error}); set HUBFLOW_CACHE") from error


def _registered(entry: RegistryEntry, revision: str | None, pretrained: bool) -> Path:
    if entry.source.startswith(PACKAGE):
        return _package_folder(entry.source, revision)
    if entry.kind == "image" and not pretrained:
        return _fresh_folder(entry.architecture)
    if revision is None:
        return _installed_folder(entry) or _hub_folder(*_parse_hub(entry.source, None), entry.sha256, pretrained)
    repo, _revision = _parse_hub(entry.source, None)
    return _hub_folder(*_parse_hub(f"{HUB}{repo}", revision), _NO_PINS, pretrained)


def _fresh_folder(architecture: str) -> Path:
    """A folder for fresh weights of an image backbone: its architecture says all, so nothing is fetched."""
    folder = cache_home() / "fresh" / architecture
    if not (folder / CONFIG).is_file():
        with atomic_folder(folder) as draft:
            (draft / CONFIG).write_text(json.dumps({"architecture": architecture}) + "\n", encoding="utf-8")
    return folder


def _installed_folder(entry: RegistryEntry) -> Path | None:
    """The folder of another installed package that carries the module, verified against the pinned hashes."""
    package, _, inner = (entry.installed or "").partition("/")
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / inner
    is_pinned = all((folder / name).is_file() and file_sha256(folder / name) == pin for name, pin in entry.sha256.items())
    return _where_files_are(folder) if is_pinned else None


def _parse_hub(name: str, revision: str | None) -> tuple[str, str]:
    repo, at, named = name.removeprefix(HUB).partition("@")
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ModuleError(f"{name!r} does not name a hub module; expected hf://org/name or hf://org/name@revision")
    if at and revision is not None and named != revision:
        raise ModuleError(f"{name!r} names revision {named!r}, but revision {revision!r} is asked for; give one of the two")
    chosen = named if at else revision if revision is not None else DEFAULT_REVISION
    if not _REVISION.fullmatch(chosen) or ".." in chosen:
        raise ModuleError(f"{name!r}: {chosen!r} is not a revision; expected a branch, a tag or a commit")
    return repo, chosen


def _given_folder(name: str, revision: str | None) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if re.search(r"[/\\]", name) is None and not folder.exists():
            find_module(name)
        raise ModuleError(f"there is no module folder {name!r}{_hint(name, folder)} A module is {NAME_FORMS}.")
    if revision is not None:
        raise ModuleError(f"{folder}: a folder has no revision {revision!r}; leave `revision` out")
    if not (folder / CONFIG).is_file():
        present = join_limited(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ModuleError(f"{folder}: not a module, it has no {CONFIG}. Expected {_EXPECTED_FILES}; found {present}")
    return folder.absolute()


def _hint(name: str, folder: Path) -> str:
    """The end of a sentence on a folder that is not there: what may have been meant."""
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    meant = [str(folder.with_name(one)) for one in difflib.get_close_matches(folder.name, beside, n=2, cutoff=0.7)]
    if _REPO.fullmatch(name):
        meant.append(f"hf://{name}")
    return f"; did you mean {' or '.join(meant)}?" if meant else "."


def _package_folder(name: str, revision: str | None) -> Path:
    if revision is not None:
        raise ModuleError(f"{name!r} ships with hubflow and has no revision {revision!r}; leave `revision` out")
    resource = name.removeprefix(PACKAGE)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", resource):
        raise ModuleError(f"{name!r} does not name a module that ships with hubflow")
    folder = importlib.resources.files("hubflow.modules").joinpath("assets", resource)
    if not isinstance(folder, Path) or not (folder / CONFIG).is_file():
        raise ModuleError(f"{name!r}: {folder} is not there; hubflow is installed without its assets, install it again")
    return _where_files_are(folder)


def _where_files_are(folder: Path) -> Path:
    """The folder that the files of an installed package are in, where an installer made links to them."""
    return (folder / CONFIG).resolve().parent


def _hub_folder(repo: str, revision: str, pins: Mapping[str, str], pretrained: bool) -> Path:
    folder = cache_home() / "modules" / repo.replace("/", "--") / quote(revision, safe="")
    checksums = read_checksums(folder)
    if checksums is None or (pretrained and not checksums.weights):
        checksums = _fetch(repo, revision, folder, pins, pretrained)
    checksums.verify(folder, pins)
    return folder


def _fetch(repo: str, revision: str, folder: Path, pins: Mapping[str, str], pretrained: bool) -> Checksums:
    try:
        from hubflow.modules.fetch import fetch_module
    except ImportError as error:
        if (error.name or "").split(".")[0] != "huggingface_hub":
            raise
        raise DownloadError(
            f"{HUB}{repo}@{revision} is not on disk ({folder}), and fetching it needs huggingface_hub: "
            'pip install "hubflow[hub]", or give a folder that holds the module'
        ) from error
    return fetch_module(repo, revision, folder, pins, pretrained)
