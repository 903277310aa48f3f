"""The checksums.json of a cached module: written last, held to on every use. Must not import Paddle or Prefect."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubflow.errors import DownloadError
from hubflow.files import read_text
from hubflow.store.manifest import file_sha256, write_atomically

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
