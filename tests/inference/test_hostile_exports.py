"""Exports that are damaged, or made to harm and sealed anew: each is refused with the name of its file."""

import json
import os
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_exports import Exported

from hubflow.errors import HubflowError, LabelMapError, ProgramError, StoreError, TokenizerError
from hubflow.hub import Predictor
from hubflow.inference.verification import read_verification
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.predict import predict
from hubflow.store.manifest import seal

Change = Callable[[bytes], bytes]


def resealed(exported: Exported, folder: Path, name: str, change: Change) -> Path:
    """A copy of an export with another content of a file, and a manifest that fits."""
    shutil.copytree(exported.folder, folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    return again(folder)


def again(folder: Path, **facts: Any) -> Path:
    known = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["facts"]
    seal(folder, "exports", {**known, **facts})
    return folder


def put(*path: str | int, value: Any) -> Change:
    """Put a value at a place of a JSON file."""

    def change(content: bytes) -> bytes:
        whole = place = json.loads(content)
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return json.dumps(whole).encode()

    return change


def drop(name: str) -> Change:
    return lambda content: json.dumps({key: value for key, value in json.loads(content).items() if key != name}).encode()


def always(content: bytes) -> Change:
    return lambda _: content


SIGNATURES: list[tuple[str, Change]] = [
    ("empty", always(b"")),
    ("no JSON", always(b"{")),
    ("a list", always(b"[]")),
    ("not UTF-8", always(b"\xff\xfe")),
    ("deep", always(b'{"a":' * 100_000)),
    ("no task", drop("task")),
    ("no rows_kind", drop("rows_kind")),
    ("no outputs", drop("outputs")),
    ("no text", drop("text")),
    ("another task", put("task", value="image_classification")),
    ("an unknown task", put("task", value=["x"])),
    ("a length of 0", put("text", "max_seq_len", value=0)),
    ("a length that is a text", put("text", "max_seq_len", value="16")),
    ("a length that is huge", put("text", "max_seq_len", value=10**18)),
    ("a padding below 0", put("text", "pad_token_id", value=-1)),
    ("another precision", put("precision", value="float128")),
    ("inputs of another name", put("inputs", value={"file": {"shape": [1], "dtype": "int64"}})),
]


@pytest.mark.parametrize("change", [change for _, change in SIGNATURES], ids=[name for name, _ in SIGNATURES])
def test_a_signature_that_is_none_is_refused(change: Change, tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"signature\.json"):
        Predictor.load(resealed(tiny_exports["text"], tmp_path / "export", "signature.json", change))


@pytest.mark.parametrize(
    "change",
    [
        put("image", "image_size", value=10**9), put("image", "mean", value=[0.5, 0.5]), put("image", "std", value=[0, 0, 0]),
        put("image", "std", value=[float("nan")] * 3), put("image", "mean", value=["a"] * 3),
        put("image", "background", value=[1, 2]), put("image", "image_rules", value="1"),
    ],
)  # fmt: skip
def test_a_signature_of_images_that_is_none_is_refused(
    change: Change, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"signature\.json: image\."):
        Predictor.load(resealed(tiny_exports["image"], tmp_path / "export", "signature.json", change))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b"3", b'"neg"', b"[1, 2]", b'["a", "a"]', b"[]", b'["a"]', b'["a", "b", "c"]', b'["b", "a"]', b"\xff",
     b"[" * 100_000, b'{"labels": ["a", "b"], "run": "x"}', b'{"labels": "ab"}'],
)  # fmt: skip
def test_a_label_map_that_is_none_or_another_is_refused(
    content: bytes, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    with pytest.raises(LabelMapError, match=r"label_map\.json"):
        Predictor.load(resealed(tiny_exports["text"], tmp_path / "export", "label_map.json", always(content)))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"version": "1.0", "model": 3}'])
def test_a_tokenizer_that_is_none_is_refused(content: bytes, tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = resealed(tiny_exports["text"], tmp_path / "export", "tokenizer.json", always(content))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Predictor.load(folder).predict("good film")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"max_abs_difference": "none"}', b"[" * 100_000], ids=range(6)
)
def test_a_proof_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "verification.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"verification\.json"):
        read_verification(tmp_path)


def flipped(place: int) -> Change:
    return lambda content: content[:place] + bytes((content[place] ^ 1,)) + content[place + 1 :]


WEIGHTS: list[tuple[str, Change]] = [
    ("empty", always(b"")),
    ("half", lambda content: content[: len(content) // 2]),
    ("without its end", lambda content: content[:-100]),
    ("with more", lambda content: content + bytes(100)),
    ("zeros", lambda content: bytes(len(content))),
    ("another version", flipped(0)),
    ("levels of detail", flipped(4)),
    ("a large description", lambda content: content[:16] + struct.pack("<i", 2**31 - 1) + content[20:]),
    ("another type", flipped(21)),
    ("another shape", flipped(23)),
]


@pytest.mark.parametrize("change", [change for _, change in WEIGHTS], ids=[name for name, _ in WEIGHTS])
def test_weights_that_are_not_the_programs_are_refused(
    change: Change, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    folder = resealed(tiny_exports["text"], tmp_path / "export", "program.pdiparams", change)
    with pytest.raises(ProgramError, match=r"program\.pdiparams"):
        Predictor.load(folder)


def operators(whole: Any) -> list[Any]:
    found: list[Any] = whole["program"]["regions"][0]["blocks"][0]["ops"]
    return found


def programmed(change: Callable[[Any], Any]) -> Change:
    def changed(content: bytes) -> bytes:
        whole = json.loads(content)
        change(whole)
        return json.dumps(whole).encode()

    return changed


def matmul(whole: Any) -> Any:
    return next(one for one in operators(whole) if one["#"] == "1.matmul")


PROGRAMS: list[tuple[str, Change]] = [
    *((f"version {one!r}", put("base_code", "version", value=one)) for one in (0, 3, 5, 10**30, -1, "4", 4.0, None)),
    ("another magic", put("base_code", "magic", value="x")),
    ("no version", drop("base_code")),
    ("a second block", programmed(lambda whole: whole["program"]["regions"][0]["blocks"].append({"ops": []}))),
    ("no region", put("program", "regions", value=[])),
    ("no block", programmed(lambda whole: whole["program"]["regions"][0].update(blocks=[]))),
    ("a weight of 10^18 numbers", programmed(lambda whole: operators(whole)[1]["O"]["TT"]["D"].__setitem__(1, [10**9] * 2))),
    ("a weight of a shape below 0", programmed(lambda whole: operators(whole)[1]["O"]["TT"]["D"].__setitem__(1, [-1]))),
    ("a weight of no type", programmed(lambda whole: operators(whole)[1]["O"]["TT"]["D"][0].update({"#": "0.t_file"}))),
    ("a weight twice", programmed(lambda whole: operators(whole).insert(0, operators(whole)[0]))),
    ("a weight of another name", programmed(lambda whole: operators(whole)[1]["A"].__setitem__(3, "../../etc/passwd"))),
    ("a name that is no text", programmed(lambda whole: operators(whole)[1]["A"].__setitem__(3, ["x"]))),
    ("a surrogate", programmed(lambda whole: operators(whole)[1]["A"].__setitem__(3, "\ud800"))),
    ("an operand that is not there", programmed(lambda whole: matmul(whole)["I"][0].update({"%": 99999}))),
    ("too few operands", programmed(lambda whole: matmul(whole)["I"].pop())),
    ("no attributes", programmed(lambda whole: matmul(whole).pop("A"))),
    ("a result of no type", programmed(lambda whole: matmul(whole)["O"][0]["TT"].update({"#": "0.t_x"}))),
    ("operators in another order", programmed(lambda whole: operators(whole).reverse())),
    ("no output", programmed(lambda whole: operators(whole).pop())),
    ("nothing", programmed(lambda whole: operators(whole).clear())),
    ("a name twice", lambda content: content.replace(b'{"base_code"', b'{"program":{},"base_code"', 1)),
    ("a number of 10,000 digits", lambda content: content.replace(b'"version":4', b'"version":' + b"4" * 10_000, 1)),
    ("infinity", lambda content: content.replace(b'"trainable":true', b'"trainable":1e999', 1)),
    ("UTF-16", lambda content: content.decode().encode("utf-16")),
    ("UTF-16 without a mark", lambda content: content.decode().encode("utf-16-le")),
    ("a byte-order mark", lambda content: b"\xef\xbb\xbf" + content),
    ("more after its end", lambda content: content + b"{}"),
]  # fmt: skip


@pytest.mark.parametrize("change", [change for _, change in PROGRAMS], ids=[name for name, _ in PROGRAMS])
def test_a_program_that_hubflow_does_not_write_is_refused(
    change: Change, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    folder = resealed(tiny_exports["text"], tmp_path / "export", "program.json", change)
    with pytest.raises(ProgramError, match=r"program\."):
        Predictor.load(folder)


def test_a_program_that_fails_on_rows_is_named(tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    def far(whole: Any) -> None:
        slices = next(one for one in operators(whole) if one["#"] == "1.slice")
        axes = next(one for one in slices["A"] if one["N"] == "axes")
        axes["AT"]["D"][0]["D"] = 9

    folder = resealed(tiny_exports["text"], tmp_path / "export", "program.json", programmed(far))
    with pytest.raises(ProgramError, match=str(folder)):
        Predictor.load(folder).predict("good film")


def test_paddle_reads_the_program_that_was_checked(
    tiny_exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is replaced as soon as it was checked: what is loaded is what was checked."""
    from hubflow.inference import predictor as module

    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    expected = Predictor.load(folder).predict("good film")
    check = module.checked_program

    def then_replaced(content: bytes, source: Path) -> Any:
        found = check(content, source)
        (folder / "program.json").write_text("{}")
        return found

    monkeypatch.setattr(module, "checked_program", then_replaced)
    assert Predictor.load(folder).predict("good film") == expected


def test_a_program_that_is_replaced_before_it_is_checked_is_refused(
    tiny_exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubflow.inference import predictor as module

    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    opened = module.open_export

    def then_replaced(path: Path) -> Any:
        found = opened(path)
        (folder / "program.json").write_bytes((folder / "program.json").read_bytes() + b" ")
        return found

    monkeypatch.setattr(module, "open_export", then_replaced)
    with pytest.raises(StoreError, match=r"program\.json was altered"):
        Predictor.load(folder)


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_weights_that_are_written_while_they_are_loaded_are_refused(
    how: str, tiny_exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubflow.inference import predictor as module

    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    weights, check = folder / "program.pdiparams", module.require_weights

    def then_changed(program: Any, path: Path) -> None:
        check(program, path)
        content = weights.read_bytes()[:-4] + np.float32(9).tobytes()
        if how == "written":
            weights.write_bytes(content)
        else:
            (folder / "other").write_bytes(content)
            os.utime(folder / "other", ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns))
            os.replace(folder / "other", weights)

    monkeypatch.setattr(module, "require_weights", then_changed)
    with pytest.raises(StoreError, match=r"program\.pdiparams was altered while"):
        Predictor.load(folder)


def test_a_tokenizer_that_is_replaced_after_loading_is_refused(tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    predictor = Predictor.load(folder)
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes().replace(b"good", b"evil"))
    with pytest.raises(StoreError, match=r"tokenizer\.json was altered"):
        predictor.predict("good film")


@pytest.mark.parametrize("name", ["program.json", "program.pdiparams", "signature.json", "label_map.json", "tokenizer.json"])
def test_a_manifest_without_a_file_that_exports_have_is_refused(
    name: str, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    """Although the file is there: nobody would know what it was."""
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=rf"manifest lacks {name}"):
        Predictor.load(folder)


@pytest.mark.parametrize(
    "facts",
    [{"task": "image_classification"}, {"task": 3}, {"num_classes": 0}, {"num_classes": "2"}, {"num_classes": 3},
     {"label_map_sha256": "x"}, {"label_map_sha256": "0" * 64}, {"metrics": 3}, {"checkpoint": {}}, {"training": {}}],
)  # fmt: skip
def test_facts_that_no_export_has_are_refused(facts: dict[str, Any], tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = again(shutil.copytree(tiny_exports["text"].folder, tmp_path / "export"), **facts)
    with pytest.raises(HubflowError, match=str(folder)):
        Predictor.load(folder)


def test_a_folder_of_another_kind_is_no_export(tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    seal(folder, "checkpoints", json.loads((folder / "manifest.json").read_text())["facts"])
    with pytest.raises(StoreError, match="a folder of 'checkpoints', expected one of 'exports'"):
        Predictor.load(folder)


def test_a_file_that_is_not_in_the_manifest_is_reported_and_has_no_effect(
    tiny_exports: dict[str, Exported], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    expected = Predictor.load(folder).predict("good film")
    for name in ("program.pdmodel", "model.onnx", "sitecustomize.py", ".hidden"):
        (folder / name).write_text("import os")
    assert Predictor.load(folder).predict("good film") == expected
    assert "3 file(s) are not in the manifest, and have no effect: model.onnx, program.pdmodel, sitecustomize.py" in caplog.text


def test_predict_refuses_what_the_predictor_refuses(tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = resealed(tiny_exports["text"], tmp_path / "export", "signature.json", drop("rows_kind"))
    (tmp_path / "rows.csv").write_text("text\ngood film\n")
    settings = PredictSettings.model_validate({"export": str(folder), "data": str(tmp_path / "rows.csv")})
    with pytest.raises(StoreError, match=r"signature\.json: rows_kind"):
        predict.fn(settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "rows.csv"]


def test_a_pipe_in_an_export_does_not_hold_it_up(tiny_exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    for name in ("label_map.json", "manifest.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        faults: list[BaseException] = []

        def load() -> None:
            try:
                Predictor.load(folder)
            except HubflowError as fault:
                faults.append(fault)  # noqa: B023 - the thread ends before the next one

        loading = threading.Thread(target=load, daemon=True)
        loading.start()
        loading.join(60)
        assert not loading.is_alive()
        assert len(faults) == 1
