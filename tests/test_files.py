"""Files that others may have written: regular ones alone are opened, whatever takes their place meanwhile."""

import os
from pathlib import Path

import pytest

from hubflow.files import held_open, open_file, read_file, read_text, why_no_file
from hubflow.store.manifest import file_sha256

ENDLESS = "/dev/zero"


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\r\nb\rc\n")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        assert read_file(tmp_path / name) == b"a\r\nb\rc\n"
        assert read_text(tmp_path / name) == (tmp_path / name).read_text() == "a\nb\nc\n"
        with open_file(tmp_path / name) as stream:
            assert stream.read() == b"a\r\nb\rc\n"
        with held_open(tmp_path / name) as opened:
            assert Path(opened).read_bytes() == b"a\r\nb\rc\n"
        assert why_no_file(tmp_path / name) is None


def test_the_byte_order_mark_of_utf_8_is_taken_off_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfx")
    assert read_text(tmp_path / "a", "utf-8-sig") == "x"


@pytest.mark.parametrize(
    ("name", "why"),
    [("pipe", "a named pipe"), (ENDLESS, "a device"), ("/dev/stdin", "a named pipe"), ("folder", "a folder")],
)
def test_what_is_no_regular_file_is_named(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    if name == "/dev/stdin":  # as in `cat rows.csv | hubflow predict /dev/stdin`
        reader, writer = os.pipe()
        path = Path(f"/proc/self/fd/{reader}")
    try:
        assert why_no_file(path) == why
        for read in (open_file, read_file, read_text, file_sha256):
            with pytest.raises(OSError, match="directory" if why == "a folder" else f"{why}, not a regular file"):
                read(path)
    finally:
        if name == "/dev/stdin":
            os.close(reader)
            os.close(writer)


def test_a_broken_link_and_one_that_leads_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert why_no_file(tmp_path / "broken") == "a link to a file that is missing"
    assert why_no_file(tmp_path / "circle") == "a link that leads in a circle"
    assert why_no_file(tmp_path / "nothing") is None


def test_a_pipe_that_takes_the_place_of_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the path and its opening, and at the last moment before its opening."""
    path = tmp_path / "a"
    real = os.open

    def swapped(name: str | Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return real(name, flags)

    path.write_bytes(b"a")
    monkeypatch.setattr("hubflow.files.os.open", swapped)
    with pytest.raises(OSError, match="a named pipe, not a regular file"):
        open_file(path)


def test_what_is_open_stays_the_same_file_whatever_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    with held_open(tmp_path / "a") as opened:
        (tmp_path / "a").unlink()
        os.mkfifo(tmp_path / "a")
        assert Path(opened).read_bytes() == b"first"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a").open("wb") as stream:
        stream.truncate(1 << 42)  # which takes no space on disk
    with pytest.raises(OSError, match=r"4,398,046,511,104 bytes; at most 268,435,456 bytes are .*limits.max_document_bytes"):
        read_file(tmp_path / "a")
    with pytest.raises(OSError, match="at most 10"):
        open_file(tmp_path / "a", max_bytes=10)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_DOCUMENT_BYTES", "5")
    (tmp_path / "b").write_bytes(b"12345")
    assert read_text(tmp_path / "b") == "12345"
    (tmp_path / "b").write_bytes(b"123456")
    with pytest.raises(OSError, match="at most 5"):
        read_text(tmp_path / "b")


def test_a_read_takes_no_more_memory_than_there_is_content(tmp_path: Path) -> None:
    """A reader may be given a length by the file itself."""
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    with open_file(tmp_path / "a") as stream:
        assert stream.read(2) == b"ab"
        assert len(stream.read(1 << 62)) == 2_999_998
        assert stream.read(1 << 62) == stream.read() == b""
        stream.seek(1)
        assert len(stream.read()) == len(stream.read(-1)) + 2_999_999


def test_a_file_without_a_size_is_read_up_to_the_limit(tmp_path: Path) -> None:
    """Files of /proc have no size, whatever they hold."""
    assert read_file("/proc/self/status", 1 << 20).startswith(b"Name:")
    with pytest.raises(OSError, match="the file has more; at most 10 bytes are read"):
        read_file("/proc/self/status", 10)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_path_that_can_name_no_file_is_an_error_of_the_system(tmp_path: Path, name: str) -> None:
    for read in (open_file, read_file, file_sha256):
        with pytest.raises(OSError, match="not a path that can name a file"):
            read(f"{tmp_path}/{name}")  # type: ignore[arg-type]
    assert why_no_file(f"{tmp_path}/{name}") is None
