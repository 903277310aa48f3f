"""What is no regular file is refused by every reader, at once: a named pipe, a socket, a device, a folder, a broken link."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_modules import write_tiny_bert

from hubflow.data.quarantine import read_quarantine
from hubflow.data.readers.reading import iter_rows, read_label_list, read_rows
from hubflow.errors import HubflowError, SettingsError
from hubflow.inference.batch.layout import output_of, sources_of
from hubflow.inference.verification import read_verification
from hubflow.modules.download import CHECKSUMS, check_file, read_checksums
from hubflow.modules.images import read_image
from hubflow.modules.module import read_config
from hubflow.modules.tokenizer import load_tokenizer
from hubflow.modules.weights import read_weights, weight_names
from hubflow.programs.operators import CheckedProgram, require_weights
from hubflow.schemas.export import VERIFICATION
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.library import library_settings
from hubflow.schemas.parsing import read_settings
from hubflow.schemas.settings import DatasetSpec, PredictSettings
from hubflow.store.manifest import file_sha256, verify_folder
from hubflow.store.store import Store

SECONDS = 20
OPEN: list[int] = []


def pipe(path: Path) -> None:
    os.mkfifo(path)


def fed_pipe(path: Path) -> None:
    """A pipe that somebody writes to and never closes."""
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    OPEN.append(writer)
    os.write(writer, b"\x89PNG\r\n\x1a\n")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(path.parent, os.O_RDONLY)  # the name of a socket is short
        try:
            bound.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


KINDS: list[Callable[[Path], None]] = [pipe, fed_pipe, bound_socket, device, Path.mkdir, link_to_itself, broken_link]


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A reader that waits for ever is a failure, not a test that stops the others."""

    def late(*_: Any) -> None:
        raise AssertionError(f"the reader waits for more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    while OPEN:
        os.close(OPEN.pop())


def rows(name: str, **spec: Any) -> Callable[[Path], object]:
    return lambda path: read_rows(DatasetSpec.model_validate({"format": name, "train": "x", **spec}), path, "train")


DATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    "settings in YAML": ("x.yaml", read_settings),
    "settings in JSON": ("x.json", read_settings),
    "CSV": ("x.csv", rows("csv")),
    "CSV, compressed": ("x.csv.gz", rows("csv")),
    "TSV": ("x.tsv", rows("tsv")),
    "JSON lines": ("x.jsonl", rows("jsonl")),
    "Parquet": ("x.parquet", rows("parquet")),
    "CoNLL": ("x.conll", rows("conll")),
    "MSRA": ("x.txt", rows("msra")),
    "image list": ("x.txt", rows("image_list")),
    "label list": ("x.txt", read_label_list),
    "image": ("x.png", read_image),
    "weights of a program": ("x.pdiparams", lambda path: require_weights(CheckedProgram(b"", {}), path)),
    "quarantine": ("x.parquet", read_quarantine),
    "checked file": ("x.bin", lambda path: check_file(path, "0" * 64, path.parent)),
    "checksums": (CHECKSUMS, lambda path: require_some(read_checksums(path.parent), path)),
    "manifest": ("manifest.json", lambda path: verify_folder(path.parent)),
    "label map": ("label_map.json", LabelMap.load),
    "file of a store": ("x.json", lambda path: require_some(Store(path.parent).read_bytes("x.json"), path)),
    "configuration": ("config.json", lambda path: read_config(path.parent, pretrained=False)),
    "safetensors": ("model.safetensors", lambda path: read_weights(path.parent)),
    "names of safetensors": ("model.safetensors", lambda path: weight_names(path.parent)),
    "index of shards": ("model.safetensors.index.json", lambda path: read_weights(path.parent)),
    "weights of Paddle": ("model_state.pdparams", lambda path: read_weights(path.parent)),
    "weights of PyTorch": ("pytorch_model.bin", lambda path: read_weights(path.parent)),
    "tokenizer": ("tokenizer.json", lambda path: load_tokenizer(path.parent)),
    "vocabulary": ("vocab.txt", lambda path: load_tokenizer(path.parent)),
    "verification": (VERIFICATION, lambda path: require_some(read_verification(path.parent), path)),
}


def require_some(found: object, path: Path) -> object:
    """Where nothing is no error of the reader, such as behind a broken link."""
    if found is None and not path.exists():
        raise HubflowError(f"nothing is at {path}")
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reader", DATA)
def test_every_reader_refuses_it(tmp_path: Path, reader: str, kind: Callable[[Path], None]) -> None:
    name, read = DATA[reader]
    kind(tmp_path / name)
    with pytest.raises(HubflowError) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) or str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_settings_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], None]) -> None:
    kind(tmp_path / "x.toml")
    monkeypatch.setenv("HUBFLOW_CONFIG", str(tmp_path / "x.toml"))
    with pytest.raises(SettingsError, match=r"HUBFLOW_CONFIG.*x\.toml"):
        library_settings()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"])
def test_parts_of_a_tokenizer(tmp_path: Path, name: str, kind: Callable[[Path], None]) -> None:
    """Where it is left out, it is left out; where it is needed, it is missed: nothing waits."""
    folder = write_tiny_bert(tmp_path / "bert")
    if name in ("vocab.json", "merges.txt"):
        (folder / "vocab.txt").unlink()
        (folder / "vocab.json").write_text("{}")
        (folder / "merges.txt").write_text("#version: 0.2\n")
        (folder / name).unlink()
    kind(folder / name)
    with contextlib.suppress(HubflowError):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.conll", "x.csv.gz", "x.zip", "x.csv.zip", "x"])
def test_what_to_predict_on(tmp_path: Path, name: str, kind: Callable[[Path], None]) -> None:
    kind(tmp_path / name)
    settings = PredictSettings(export="e", data=str(tmp_path / name), format=None if "." in name else "csv")
    task, kind_of_rows = ("sequence_labelling", "tokens") if "conll" in name else ("text_classification", "text")
    with pytest.raises(HubflowError, match=r"/x"):
        for source in sources_of(settings, task, kind_of_rows, output_of(settings)):
            list(iter_rows(source.spec, source.path, "test", task, labelled=False))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("is_list", [False, True])
def test_an_image_that_is_none_is_a_malformed_row(tmp_path: Path, is_list: bool, kind: Callable[[Path], None]) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "a.png")
    kind(tmp_path / "cat" / "b.png")
    (tmp_path / "list.txt").write_text("cat/a.png\tcat\ncat/b.png\tcat\n")
    spec = DatasetSpec(format="image_list" if is_list else "image_folder", train="x")
    (chunk,) = iter_rows(spec, tmp_path / "list.txt" if is_list else tmp_path, "train")
    assert chunk.rows["path"].tolist() == [str(tmp_path / "cat" / "a.png")]
    if kind is not Path.mkdir or is_list:  # a folder in a folder is looked through
        assert chunk.malformed["content"].tolist() == [str(tmp_path / "cat" / "b.png")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hashing(tmp_path: Path, kind: Callable[[Path], None]) -> None:
    kind(tmp_path / "x")
    with pytest.raises(OSError, match="x"):
        file_sha256(tmp_path / "x")


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("text,label\na,b\n")
    (tmp_path / "x.csv").symlink_to("real.csv")
    assert rows("csv")(tmp_path / "x.csv") is not None
