"""Fetches what is needed of a module from a hub by huggingface_hub.

huggingface_hub supplies addresses, tokens, proxies, retries and progress bars. Partial files, hashes and the order of writing
are kept here: its own downloads start from nothing in a new process, and it does not hash what came over plain HTTP.
"""

import errno
import fnmatch
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # its exports are lazy

from hubflow.errors import DownloadError, HubflowError, join_limited
from hubflow.files import read_file
from hubflow.modules.download import CONFIG, Checksums, read_checksums
from hubflow.modules.weights import LOOKED_FOR, PADDLE_PATTERN, SAFETENSORS, SAFETENSORS_INDEX, TORCH_PICKLE, weight_shards
from hubflow.schemas.library import library_settings
from hubflow.store.manifest import file_sha256

PARTIAL = ".partial"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_SENTENCEPIECE = ("sentencepiece*.model", "spiece.model")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)


@dataclass(frozen=True)
class _Remote:
    """One commit of a repository, and the folder that it is fetched into."""

    endpoint: str
    repo: str
    commit: str
    folder: Path
    pins: Mapping[str, str]

    @property
    def source(self) -> str:
        return f"hf://{self.repo}@{self.commit}"


def fetch_module(repo: str, revision: str, folder: Path, pins: Mapping[str, str], pretrained: bool) -> Checksums:
    """Fetch what is missing of a module into `folder`, one process at a time, and record the hash of every file.

    Raises:
        DownloadError: naming the endpoint or file, and what to do. What has come so far is kept: the next try goes on there.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    with _explained(endpoint, repo, revision, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder.parent / f".{folder.name}.lock"):
            known = read_checksums(folder)
            if known and (known.weights or not pretrained):  # another process fetched it while this one waited
                return known
            if known:
                known.verify(folder, pins)
            asked = known.commit if known else revision
            info = HfApi(endpoint=endpoint).model_info(repo, revision=asked, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            remote = _Remote(endpoint, repo, info.sha or revision, folder, pins)
            # Of the folder itself: a name with a folder in it, `..` too, is of no file that a module needs.
            present = sorted(one.rfilename for one in info.siblings or () if not set("/\\\0") & set(one.rfilename))
            sha256 = {name: _fetch_file(remote, name) for name in _wanted(remote, present, pretrained)}
            if SAFETENSORS_INDEX in sha256:
                sha256 |= {shard: _fetch_file(remote, shard) for shard in weight_shards(folder / SAFETENSORS_INDEX)}
            checksums = Checksums(f"hf://{repo}@{revision}", remote.commit, pretrained, sha256)
            checksums.save(folder)
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            return checksums


def _wanted(remote: _Remote, present: list[str], pretrained: bool) -> list[str]:
    """The files to fetch: the configuration, the tokenizer's, and one kind of weights."""
    if CONFIG not in present:
        raise DownloadError(f"{remote.source}: no {CONFIG} there, so not a module; found {join_limited(present) or 'no files'}")
    wanted = [CONFIG, *(name for name in _TOKENIZER_FILES if name in present)]
    if "tokenizer.json" not in present:
        wanted += [name for name in present if any(fnmatch.fnmatchcase(name, pattern) for pattern in _SENTENCEPIECE)]
    if pretrained:
        paddle = sorted(fnmatch.filter(present, PADDLE_PATTERN), key=lambda name: (name != "model_state.pdparams", name))
        kinds = [name for name in (SAFETENSORS, SAFETENSORS_INDEX, *paddle, TORCH_PICKLE) if name in present]
        if not kinds:
            raise DownloadError(
                f"{remote.source}: no weights there; looked for {', '.join(LOOKED_FOR)}, found {join_limited(present)}. "
                "Choose another revision, or build with pretrained=False"
            )
        wanted.append(kinds[0])
    return wanted


def _fetch_file(remote: _Remote, name: str) -> str:
    """Bring one file into the folder, whole and verified, and return its sha256."""
    headers = build_hf_headers(library_name="hubflow")
    url = hf_hub_url(remote.repo, name, revision=remote.commit, endpoint=remote.endpoint)
    metadata = get_hf_file_metadata(url, headers=headers)
    require_as_safe(url, metadata.location)
    target, etag, pin = remote.folder / name, metadata.etag or "", remote.pins.get(name)
    declared = pin is not None or _SHA256.fullmatch(etag) or _SHA1.fullmatch(etag)
    if declared and target.is_file() and _fault(target, etag, pin) is None:
        return file_sha256(target)
    partial = remote.folder / PARTIAL / f"{name}.{hashlib.sha256(etag.encode()).hexdigest()[:16]}"
    partial.parent.mkdir(exist_ok=True)
    if not etag:  # nothing says that what is there is the start of the same file
        partial.unlink(missing_ok=True)
    if urlparse(metadata.location).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for where the hub keeps its files
    _download(metadata.location, partial, headers, metadata.size)
    fault = _fault(partial, etag, pin)
    if fault:
        partial.unlink()
        raise DownloadError(
            f"{url}: what came is not what was declared; {fault}. Try again; if it stays, ask the operator of the server"
        )
    sha256 = file_sha256(partial)
    partial.replace(target)
    return sha256


def require_as_safe(url: str, location: str) -> None:
    """Refuse to be sent from https to anything less.

    Args:
        url: that was asked for.
        location: where the hub says that the file is.

    Raises:
        DownloadError: when the location has another scheme than http or https, or http where `url` has https.
    """
    asked, found = urlparse(url).scheme, urlparse(location).scheme
    if found != "https" and (asked, found) != ("http", "http"):
        raise DownloadError(f"{url}: the hub sends to {location[:200]}, which is not https; set HF_ENDPOINT to a hub you trust")


class _BoundedFile(io.BufferedWriter):
    """A file that takes no more bytes than were declared."""

    def __init__(self, path: Path, size: int | None, url: str) -> None:
        """Append to the file.

        Raises:
            DownloadError: when the declared size is more than `limits.max_download_bytes`.
        """
        most = library_settings().limits.max_download_bytes
        if size is not None and size > most:
            raise DownloadError(f"{url}: has {size:,} bytes, more than limits.max_download_bytes {most:,}")
        super().__init__(io.FileIO(path, "ab"))
        self._size, self._most, self._url = size, most, url

    def write(self, chunk: Any, /) -> int:
        """Write a part of the file.

        Raises:
            DownloadError: when it is more than the rest.
        """
        if self.tell() + len(chunk) > (self._most if self._size is None else self._size):
            declared = (
                f"limits.max_download_bytes {self._most:,}" if self._size is None else f"the declared {self._size:,} bytes"
            )
            self.truncate(0)
            raise DownloadError(f"{self._url}: sends more than {declared}; nothing of it is kept. Ask the server's operator")
        return super().write(chunk)


def _download(url: str, partial: Path, headers: dict[str, str], size: int | None) -> None:
    """Append to `partial` what it lacks, so that it survives this process and the next one goes on where it ends."""
    with _BoundedFile(partial, size, url) as stream:
        have = stream.tell()
        if size is not None and have > size:
            stream.truncate(0)
            have = 0
        # Without compression a byte range is a range of the file itself.
        http_get(url, stream, resume_size=have, headers={**headers, "Accept-Encoding": "identity"}, expected_size=size)
        stream.flush()
        os.fsync(stream.fileno())


def _fault(path: Path, etag: str, pin: str | None) -> str | None:
    """What is wrong with a file, by the pinned hash and by the one that the hub declares as its etag."""
    sha256 = file_sha256(path)
    if pin is not None and sha256 != pin:
        return f"expected the pinned sha256 {pin}, found {sha256}"
    if _SHA256.fullmatch(etag) and sha256 != etag:
        return f"expected sha256 {etag}, found {sha256}"
    if _SHA1.fullmatch(etag) and etag not in (git := _git_sha1(path)):
        return f"expected git hash {etag}, found {git[0]}"
    return None


def _git_sha1(path: Path) -> tuple[str, str]:
    """Git's hash of the content, which the hub declares for small files, and the plain SHA-1, which some mirrors do."""
    content = read_file(path)
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return git, hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def _explained(endpoint: str, repo: str, revision: str, folder: Path) -> Iterator[None]:
    """Turn whatever a hub, a network or a disk raises into a DownloadError that says what to do."""
    try:
        yield
    except HubflowError:
        raise
    except Exception as error:  # each version of huggingface_hub has its own HTTP library and errors
        raise DownloadError(f"hf://{repo}@{revision}: {_remedy(error, endpoint, repo, revision, folder)}") from error


def _remedy(error: Exception, endpoint: str, repo: str, revision: str, folder: Path) -> str:
    otherwise = "or give a folder that holds the module"
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        return f"{folder} cannot be written ({error}); free it, or set HUBFLOW_CACHE to another folder"
    remedies: tuple[tuple[type[Exception], str], ...] = (
        (OfflineModeIsEnabled, f"not on disk ({folder}), and HF_HUB_OFFLINE forbids fetching it; unset it, {otherwise}"),
        (GatedRepoError, f"{endpoint} asks to accept conditions first; do so on the module's page, then set HF_TOKEN"),
        (RepositoryNotFoundError, f"{endpoint} has no repository {repo!r}, or it is private; check the name, or set HF_TOKEN"),
        (RevisionNotFoundError, f"{endpoint} has no revision {revision!r} of {repo!r}; give an existing branch, tag or commit"),
        (EntryNotFoundError, f"{endpoint} lists a file that it does not serve ({_short(error)}); try again"),
        (HfHubHTTPError, f"{endpoint} refused ({_short(error)}); try again later, {otherwise}"),
    )
    for kind, text in remedies:
        if isinstance(error, kind):
            return text
    return (
        f"fetching from {endpoint} did not finish ({_short(error)}); check the network, set HF_ENDPOINT to a mirror, "
        f"{otherwise}. What has come so far is kept: the next try goes on there"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no message'}"
