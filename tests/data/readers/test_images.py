"""Image folders and image lists: all that lies there is read, counted as skipped, or refused with what to do."""

import os
import re
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from hubflow.data.readers.reading import iter_rows, read_rows
from hubflow.errors import ContractError, DataError, HubflowError
from hubflow.schemas.parsing import rgb_of
from hubflow.schemas.references import DatasetRef, Split
from hubflow.schemas.settings import DatasetSpec, ModuleSpec
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store


def picture(path: Path, shade: int = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), shade).save(path, format=kind)
    return path


def classes(root: Path, *names: str, count: int = 6) -> Path:
    """Class folders of different images."""
    for place, name in enumerate(names):
        for number in range(count):
            picture(root / name / f"{number}.png", place * count + number)
    return root


def spec(path: Path, kind: str, **more: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"format": kind, "train": str(path), **more})


def chunk_of(path: Path, kind: str, split: Split = "train", labelled: bool = True, **more: Any) -> Any:
    (chunk,) = iter_rows(spec(path, kind, **more), path, split, labelled=labelled)
    return chunk


def names(rows: pd.DataFrame, root: Path) -> list[str]:
    return [Path(os.path.relpath(path, root)).as_posix() for path in rows["path"]]


def refused(path: Path, kind: str, **more: Any) -> str:
    with pytest.raises(DataError) as raised:
        read_rows(spec(path, kind, **more), path, "train")
    return str(raised.value)


# Folders


def test_what_is_no_image_is_counted_by_reason(tmp_path: Path) -> None:
    root = classes(tmp_path / "root", "cat", "dog", count=2)
    picture(tmp_path / "elsewhere" / "linked.png", 99)
    (root / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "linked.png")
    picture(root / "cat" / "deep" / "nested" / "UPPER.JPG", kind="JPEG")
    picture(root / "dog" / "no ending")
    picture(root / "loose.png")
    for hidden in (".DS_Store", "Thumbs.db", "__MACOSX/._a.png", ".git/x.png", "cat/._0.png", "cat/desktop.ini"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).write_bytes(b"x")
    for other in ("README.md", "cat/notes.txt", "dog/labels.json", "dog/photo.heic"):
        (root / other).write_text("not an image")
    (root / "dog" / "gone").symlink_to(tmp_path / "nowhere")
    chunk = chunk_of(root, "image_folder")
    assert names(chunk.rows, root) == [
        *("cat/0.png", "cat/1.png", "cat/deep/nested/UPPER.JPG", "cat/link.png", "cat/linked/linked.png"),
        *("dog/0.png", "dog/1.png", "dog/no ending"),
    ]
    assert chunk.rows["label"].tolist() == ["cat"] * 5 + ["dog"] * 3
    assert chunk.skipped == {
        "hidden or system file": 6,
        "other file type": 4,
        "image beside the class folders": 1,
        "broken link": 1,
    }
    assert f"{root / 'loose.png'} (image beside the class folders)" in chunk.skipped_examples
    assert not any("DS_Store" in example for example in chunk.skipped_examples)


def test_loops_of_links_end(tmp_path: Path) -> None:
    root = classes(tmp_path / "root", "cat", "dog", count=1)
    (root / "cat" / "up").symlink_to(root / "cat")
    (root / "cat" / "top").symlink_to(root)
    (root / "cat" / "above").symlink_to(tmp_path)
    (root / "dog" / "other").symlink_to(root / "cat")  # which is followed, once
    (root / "dog" / "twice").symlink_to(root / "cat")
    (root / "all").symlink_to(root)
    (root / "circle").symlink_to(root / "circle")
    (root / "dog" / "circle.png").symlink_to(root / "dog" / "circle.png")
    chunk = chunk_of(root, "image_folder", "dev")
    assert names(chunk.rows, root) == ["cat/0.png", "dog/0.png", "dog/other/0.png"]
    assert chunk.skipped["link to a folder that is read already"] >= 8
    assert chunk.malformed["content"].tolist() == [str(root / "dog" / "circle.png")]
    found = chunk_of(root, "image_folder", labelled=False)
    assert len(found.rows) == 3


def test_files_that_cannot_be_read_are_rows_with_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = classes(tmp_path / "root", "cat", "dog", count=3)
    os.mkfifo(root / "cat" / "pipe.png")
    os.mkfifo(root / "cat" / "pipe")
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (root / "dog" / "zero.png").symlink_to("/dev/zero")
    monkeypatch.chdir(root / "cat")  # whose path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
        chunk = chunk_of(root, "image_folder")
    assert len(chunk.rows) == 6
    assert sorted(Path(path).name for path in chunk.malformed["content"]) == ["gone.jpg", "pipe.png", "socket.png", "zero.png"]
    assert chunk.malformed["found"].str.contains("not a regular file|No such file or directory").all()
    assert chunk.skipped == {"not a regular file": 1}
    with pytest.raises(ContractError, match=r"4 of 10 row\(s\) .* are quarantined"):
        load(tmp_path, root)
    assert load(tmp_path, root, max_invalid_fraction=0.5).rows == {"train": 5, "dev": 1}


def test_names_that_are_not_utf_8_are_faults_of_their_files(tmp_path: Path) -> None:
    root = classes(tmp_path / "root", "cat", "dog", count=3)
    strange = os.fsdecode(b"caf\xe9")
    picture(root / "dog" / f"{strange}.png", 77)
    (root / "dog" / f"{strange}.txt").write_text("x")
    chunk = chunk_of(root, "image_folder")
    assert len(chunk.rows) == 6
    assert chunk.malformed["found"].tolist() == [f"row 7 ({root / 'dog'}/caf\\xe9.png: its name is not UTF-8)"]
    assert chunk.skipped_examples == (f"{root / 'dog'}/caf\\xe9.txt (other file type)",)


def load(tmp_path: Path, path: Path, kind: str = "image_folder", **more: Any) -> DatasetRef:
    return load_dataset.fn(spec(path, kind, **more), "image_classification", str(tmp_path / "store"))


def report(tmp_path: Path, reference: DatasetRef) -> dict[str, Any]:
    found: dict[str, Any] = Store(tmp_path / "store").open(reference).facts["data_report"]
    return found


def test_skipped_files_are_in_the_data_report_as_a_finding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = classes(tmp_path / "root", "cat", "dog")
    (root / ".DS_Store").write_bytes(b"x")
    first = load(tmp_path, root)
    assert report(tmp_path, first)["splits"]["train"]["skipped"] == {"hidden or system file": 1}
    assert not [one for one in report(tmp_path, first)["findings"] if one["check"] == "skipped_files"]
    picture(root / "loose.png")
    caplog.clear()
    again = load(tmp_path, root)
    assert again == first  # the rows are the same
    kept = Store(tmp_path / "store").root / "data-reports" / Path(again.path).name / "report.json"
    assert '"image beside the class folders": 1' in kept.read_text()
    assert str(root / "loose.png") in kept.read_text()
    with pytest.raises(ContractError, match=r"skipped_files: train: files in .* are skipped"):
        load(tmp_path, root, checks={"skipped_files": "fail"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "dev", "test"),
    [("train", "val", "test"), ("Train", "valid", None), ("training", "dev", "testing"), ("train", "validation", None)],
)
def test_a_root_that_holds_splits_gives_splits(train: str, dev: str, test: str | None, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for place, split in enumerate(filter(None, (train, dev, test))):
        for number in range(4):
            picture(root / split / "ab"[number % 2] / f"{number}.png", place * 50 + number)
    picture(root / "loose.png")
    reference = load(tmp_path, root)
    assert reference.rows == {"train": 4, "dev": 4} | ({"test": 4} if test else {})
    assert reference.num_classes == 2
    home = Store(tmp_path / "store").open(reference).folder
    assert set(pd.read_parquet(home / "train.parquet")["label"]) == {"a", "b"}
    assert report(tmp_path, reference)["splits"]["dev"]["source"] == str(root / dev)
    assert report(tmp_path, reference)["splits"]["train"]["skipped"] == {"image beside the folders of splits": 1}
    assert load(tmp_path, root, dev=str(root)).rows == reference.rows
    assert load(tmp_path, root, dev=str(root / dev)).rows == reference.rows
    with pytest.raises(DataError, match="holds the splits"):
        read_rows(spec(root, "image_folder"), root, "train")
    labels = chunk_of(root, "image_folder", labelled=False).rows["label"]
    assert set(labels.dropna()) == {"a", "b"}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "val/a", "extra/a"), r"named as splits \(train, val\) beside others \(extra\)"),
        (("train/a", "train/b", "extra/a", "extra/b"), r"named as splits \(train\) beside others \(extra\)"),
        (("train/a", "train/b", "val/a", "dev/a"), "several folders of one split: dev, train, val"),
        (("train/a", "train/b", "test"), "no class folders in .*test"),
        (("train", "val"), "no class folders in"),
        (("a/train", "a/val", "b/train", "b/val"), r"the folders a, b hold splits \(train, val\)"),
        (
            ("train_set/a", "train_set/b", "val_set/a", "val_set/b"),
            r"folders train_set, val_set are named as splits, not as classes",
        ),
        (("seg_train/seg_train/a", "seg_test/seg_test/a"), r"folders seg_test, seg_train are named as splits"),
        (("1-Train/a", "2-Valid/a", "3-Test/a"), r"are named as splits"),
        (("only/a", "only/b"), r"its only folder 'only' holds the folders a, b; .* set the path to .*only"),
    ],
)
def test_a_root_of_the_wrong_level_is_refused_and_never_read_as_classes(
    folders: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    classes(tmp_path / "data", *folders)
    with pytest.raises(DataError, match=message):
        load(tmp_path, tmp_path / "data")


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "car", "boat"),
        ("train/steam", "car/old"),
        ("test", "control"),
        ("bullet_train", "steam_train"),
        ("test_tube", "trainer"),
        ("valley", "devil"),
    ],
)
def test_a_class_may_be_called_as_a_split(folders: tuple[str, ...], tmp_path: Path) -> None:
    root = classes(tmp_path / "data", *folders)
    assert load(tmp_path, root).num_classes == len(folders)


def test_a_train_folder_alone_is_a_split_where_it_holds_classes(tmp_path: Path) -> None:
    root = classes(tmp_path / "data", "train/cat", "train/dog")
    assert load(tmp_path, root).num_classes == 2
    with pytest.raises(DataError, match="holds the splits train, none of them for test"):
        load(tmp_path, root, test=str(root))


def test_images_beside_a_folder_are_all_predicted_on_in_the_order_of_their_paths(shared_case: Callable[[str], Path]) -> None:
    inbox = shared_case("images-beside-folders") / "inbox"
    chunk = chunk_of(inbox, "image_folder", labelled=False)
    assert names(chunk.rows, inbox) == ["a.png", "b.png", "old/c.png"]
    assert chunk.skipped == {}


def test_folders_and_files_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a.png", "a/b/y.png", "c/d/e.png", unicodedata.normalize("NFC", "é.png")):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "empty").mkdir()
    chunk = chunk_of(tmp_path / "in", "image_folder", labelled=False)
    assert names(chunk.rows, tmp_path / "in") == ["a/b/y.png", "a/z.png", "a.png", "b.png", "c/d/e.png", "é.png"]
    assert chunk.rows["label"].isna().tolist() == [False, False, True, True, False, True]


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=r"holds no images \(skipped: other file type 1; first .*a\.heic"):
        chunk_of(tmp_path / "in", "image_folder", labelled=False)


# Lists


def listed(tmp_path: Path, lines: str, *files: str, labelled: bool = True, **more: Any) -> list[tuple[str, str | None]]:
    for file in files:
        picture(tmp_path / file)
    path = tmp_path / "list.txt"
    path.write_text(lines, encoding="utf-8", newline="")
    rows = chunk_of(path, "image_list", labelled=labelled, **more)
    assert not len(rows.malformed)
    labels = rows.rows["label"].tolist() if "label" in rows.rows else [None] * len(rows.rows)
    return list(zip(names(rows.rows, tmp_path), labels, strict=True))


TWO_WORDS = [("a.png", "big cat"), ("b 1.png", "dog")]


@pytest.mark.parametrize(
    "lines",
    [
        "a.png\tbig cat\nb 1.png\tdog\n",
        "a.png\tbig cat\r\n\r\nb 1.png\tdog\r\n",
        "a.png,big cat\nb 1.png,dog\n",
        "a.png, big cat\nb 1.png, dog\n",
        "a.png;big cat\nb 1.png;dog\n",
        "big cat\ta.png\ndog\tb 1.png\n",
        "big cat,a.png\ndog,b 1.png\n",
        "path\tlabel\na.png\tbig cat\nb 1.png\tdog\n",
        "image,label\na.png,big cat\nb 1.png,dog\n",
        "name,label\na.png,big cat\nb 1.png,dog\n",
        '"label","file_name"\n"big cat","a.png"\n"dog","b 1.png"\n',
        '"a.png" big cat\n"b 1.png" dog\n',
        "'a.png'\tbig cat\n'b 1.png'\tdog\n",
        "\ufeffa.png\tbig cat\nb 1.png\tdog\n",
    ],
)
def test_the_separator_of_a_list_is_found(lines: str, tmp_path: Path) -> None:
    assert listed(tmp_path, lines, "a.png", "b 1.png") == TWO_WORDS


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a.png big cat\nc.png wild dog\n", [("a.png", "big cat"), ("c.png", "wild dog")]),
        ("b 1.png cat\nc.png dog\n", [("b 1.png", "cat"), ("c.png", "dog")]),
        ("cat b 1.png\ndog c.png\n", [("b 1.png", "cat"), ("c.png", "dog")]),
        ("path label\nb 1.png cat\n", [("b 1.png", "cat")]),
        ('"d, e.png",big cat\nc.png,dog\n', [("d, e.png", "big cat"), ("c.png", "dog")]),
        ("x\\f.png cat\n.\\c.png dog\n", [("x/f.png", "cat"), ("c.png", "dog")]),
        ("x\\f.png\tbig cat\nc.png\tdog\n", [("x/f.png", "big cat"), ("c.png", "dog")]),
        ("./x/../c.png dog\n", [("c.png", "dog")]),
    ],
)
def test_blanks_quotes_and_backslashes_are_read_as_they_fit_all_lines(
    lines: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert listed(tmp_path, lines, "a.png", "b 1.png", "c.png", "d, e.png", "x/f.png") == expected


def test_a_header_line_is_counted_and_a_file_of_that_name_is_none(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\n")
    assert chunk_of(tmp_path / "list.csv", "image_list").skipped == {"header line": 1}
    picture(tmp_path / "image")
    (tmp_path / "list.csv").write_text("image,label\na.png,cat\n")
    assert chunk_of(tmp_path / "list.csv", "image_list").rows["label"].tolist() == ["label", "cat"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.png big cat\nb 1.png dog\n", "split at the last blank and as path and label split at the first blank"),
        ("a.png,cat,1\nc.png,dog,2\n", r"found comma in 2 of 2 \(3 fields\); line 1 .*write a tab between path and label"),
        ("a.png\nc.png\n", "found no separator"),
        ("b 1.png cat\nc.png wild dog\nb 1.png dog\n", "not path and label split at the last blank, as most lines are, but"),
        ("gone.png big cat\nlost.png dog\n", r"expected image files in .* \(lines are path and label split at the first blank"),
        ("0\t1.0\ta.png\n1\t0.0\tc.png\n", r"found tab in 2 of 2 \(3 fields\); line 1"),
        ("C:\\photos\\a.png cat\nC:\\photos\\c.png dog\n", "is a path on a drive of Windows; write paths that begin in"),
        ("../a.png cat\nc.png dog\n", "leads out of .*set image_root"),
    ],
)
def test_a_list_that_can_be_read_in_several_ways_is_refused_naming_the_separator(
    lines: str, message: str, tmp_path: Path
) -> None:
    for file in ("a.png", "b 1.png", "c.png"):
        picture(tmp_path / file)
    path = tmp_path / "list.txt"
    path.write_text(lines)
    with pytest.raises(DataError, match=message):
        read_rows(spec(path, "image_list"), path, "train")


def test_an_image_is_no_list(tmp_path: Path) -> None:
    assert "is an image; expected a list of images" in refused(picture(tmp_path / "a.png"), "image_list")


def test_paths_may_be_relative_to_another_folder(tmp_path: Path) -> None:
    lines = "x/a.png cat\nb.png dog\n"
    root = str(tmp_path / "images")
    expected = [("images/x/a.png", "cat"), ("images/b.png", "dog")]
    assert listed(tmp_path, lines, "images/x/a.png", "images/b.png", image_root=root) == expected
    assert listed(tmp_path, f"{root}/b.png dog\n", image_root=root) == [("images/b.png", "dog")]
    with pytest.raises(DataError, match="or in the folder that image_root names"):
        read_rows(spec(write(tmp_path / "other.txt", lines), "image_list"), tmp_path / "other.txt", "train")
    with pytest.raises(DataError, match="no such folder"):
        chunk_of(tmp_path / "list.txt", "image_list", image_root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="image_root is for format image_list"):
        spec(tmp_path, "image_folder", image_root=root)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("labels", ["0 big cat\n1 dog\n", "1\tdog\n0\tbig cat\n", "0,big cat\n1,dog\n", "big cat\ndog\n"])
@pytest.mark.parametrize("number_of", [str, float])
def test_label_files_of_numbers_and_names_name_the_integers_of_a_list(labels: str, number_of: Any, tmp_path: Path) -> None:
    names_file = write(tmp_path / "label_list.txt", labels)
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
    path = write(tmp_path / "train.txt", "".join(f"{number}.png {number_of(number % 2)}\n" for number in range(12)))
    reference = load(tmp_path, path, "image_list", label_list=str(names_file))
    folder = Store(tmp_path / "store").open(reference).folder
    assert (folder / "label_map.json").read_text().replace("\n", "").replace(" ", "") == '["bigcat","dog"]'
    rows = pd.read_parquet(folder / "train.parquet")
    assert rows["label"].tolist() == [["big cat", "dog"][int(Path(path).stem) % 2] for path in rows["path"]]


def test_labels_that_begin_with_other_numbers_stay_whole(tmp_path: Path) -> None:
    names_file = write(tmp_path / "label_list.txt", "1 star\n2 stars\n")
    assert listed(tmp_path, "a.png\t1 star\nb.png\t2 stars\n", "a.png", "b.png", label_list=str(names_file)) == [
        ("a.png", "1 star"),
        ("b.png", "2 stars"),
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a.png\nb 1.png\n", [("a.png", None), ("b 1.png", None)]),
        ("path\na.png\nb 1.png\n", [("a.png", None), ("b 1.png", None)]),
        ("a.png cat\nb 1.png\n", [("a.png", "cat"), ("b 1.png", None)]),
        ("a.png,big cat\nb 1.png,dog\n", TWO_WORDS),
        ("x\\f.png\n", [("x/f.png", None)]),
    ],
)
def test_lists_to_predict_on_need_no_labels(lines: str, expected: list[tuple[str, str | None]], tmp_path: Path) -> None:
    found = listed(tmp_path, lines, "a.png", "b 1.png", "x/f.png", labelled=False)
    assert [(name, label if isinstance(label, str) else None) for name, label in found] == expected


def test_faults_of_lists_set_rows_aside_up_to_the_share(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
    path = write(
        tmp_path / "t.txt", "".join(f"{number}.png {number % 2}\n" for number in range(12)) + "gone.png 1\n../x.png 0\n"
    )
    with pytest.raises(HubflowError, match=r"2 of 14 row\(s\)"):
        load(tmp_path, path, "image_list")
    assert sum(load(tmp_path, path, "image_list", max_invalid_fraction=0.2).rows.values()) == 12


# The page


def blocks(section: str, kind: str) -> list[str]:
    """Code of a section of docs/how-to/data-formats.md."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "data-formats.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def test_the_lists_of_the_page_are_read_as_it_says(tmp_path: Path) -> None:
    by_tab, with_header, labels = blocks("Image lists: `image_list`", "text")
    expected = [("photos/1.jpg", "big cat"), ("photos/in the garden/2.jpg", "dog")]
    assert listed(tmp_path, by_tab, *(name for name, _ in expected)) == expected
    assert listed(tmp_path, with_header) == expected
    numbered = by_tab.replace("big cat", "0").replace("dog", "1")
    names_file = write(tmp_path / "labels.txt", labels)
    assert [label for _, label in listed(tmp_path, numbered, label_list=str(names_file))] == ["big cat", "dog"]


def test_the_folder_of_the_page_is_read_as_it_says(tmp_path: Path) -> None:
    (tree,) = blocks("Image folders: `image_folder`", "text")
    root, *files = tree.split("\n")
    for file in filter(None, map(str.strip, files)):
        picture(tmp_path / root / file)
    chunk = chunk_of(tmp_path / root, "image_folder")
    assert chunk.rows["label"].tolist() == ["cat", "cat", "dog"]
    assert not chunk.skipped


def test_the_background_of_the_page_is_a_setting() -> None:
    (example,) = blocks("Pictures", "yaml")
    assert rgb_of(ModuleSpec.model_validate(yaml.safe_load(example)["module"]).background) == (240, 240, 240)


@pytest.mark.parametrize(
    ("content", "encoding", "fault"),
    [
        (b"a.png\tcat\nb\xff.png\tdog\n", "utf-8", r"list\.txt: line 2: byte 0xff .* is not utf-8"),
        (b"a.png\tcat", "utf-16", r"list\.txt: .*utf-16"),
        (b"a.png\tcat\n", "idna\0", r"list\.txt: unknown encoding"),
        (b"a.png\tcat\n", "base64", r"list\.txt: unknown encoding 'base64'"),
        (b"a.png\tcat\n", "undefined", r"list\.txt"),
        (b"a.png\tcat\n\\ud800.png\tdog\n", "unicode_escape", r"list\.txt"),
    ],
)
def test_a_list_that_cannot_be_decoded_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, encoding: str, fault: str
) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    for labelled in (True, False):
        with pytest.raises(DataError, match=fault):
            read_rows(
                DatasetSpec(format="image_list", train="x", encoding=encoding), tmp_path / "list.txt", "train", None, labelled
            )


@pytest.mark.parametrize("name", ["b\0.png", f"{'b' * 5_000}.png", "/".join("b" * 3_000), "\ue000\u2028.png", "((((" * 20_000])
def test_a_path_of_a_list_that_can_name_no_file_is_a_fault_of_its_line(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "list.txt").write_text(f"a.png\tcat\n{name}\tcat\n", encoding="utf-8")
    (chunk,) = iter_rows(DatasetSpec(format="image_list", train="x"), tmp_path / "list.txt", "train")
    assert chunk.rows["row"].tolist() == [1]
    assert chunk.malformed["row"].tolist() == [2]
