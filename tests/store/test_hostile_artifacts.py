"""Artifacts of a store that were sealed by somebody else: each kind must have its files and its facts, or it is not taken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Run
from verdicts import store_with_exports, verdict_on

from hubflow.data.encoded import open_images
from hubflow.deployment.pointer import export_reference, read_verdict
from hubflow.errors import StoreError
from hubflow.evaluation.folder import load_details, read_details
from hubflow.schemas.deployment import GateSettings
from hubflow.schemas.references import Reference
from hubflow.schemas.settings import EvaluateSettings
from hubflow.stages.gate import gate
from hubflow.store.manifest import MANIFEST, seal, verify_folder
from hubflow.store.store import Store, file_sha256

KINDS = ("dataset", "module", "encoded", "task", "checkpoint", "evaluation", "export")
FACTS = {
    "dataset": ("rows_kind", "rows", "num_classes", "label_map_sha256", "label_counts", "data_report"),
    "module": ("name", "pretrained", "module_kind", "architecture"),
    "encoded": ("dataset", "module", "max_seq_len", "image_size"),
    "task": ("task", "num_classes", "label_map_sha256", "hidden_units", "trainable", "lora", "max_seq_len", "module"),
    "checkpoint": ("task", "encoded", "settings", "seed", "best_metric", "best_value", "best_epoch", "steps"),
    "evaluation": ("metrics",),
    "export": ("task", "num_classes", "label_map_sha256"),
}
FILES = {
    "dataset": ("label_map.json", "train.parquet", "dev.parquet", "test.parquet"),
    "encoded": ("label_map.json", "train.arrow", "dev.arrow", "test.arrow"),
    "task": ("parameters.json",),
    "checkpoint": ("model.safetensors",),
    "evaluation": ("label_map.json", "dev.parquet", "test.parquet"),
    "export": ("label_map.json", "program.json", "program.pdiparams", "signature.json"),
}


@pytest.fixture
def store(digits_run: Run, tmp_path: Path) -> Store:
    return Store(store_with_exports(digits_run, tmp_path)[0])


def refused(store: Store, reference: Reference, message: str) -> None:
    """The artifact at the reference's path is neither opened, however its manifest is referred to, nor found."""
    kind, key = reference.path.split("/")
    now = Reference(path=reference.path, sha256=file_sha256(store.root / reference.path / MANIFEST))
    with pytest.raises(StoreError, match=message):
        store.open(now)
    assert store.find(kind, key) is None


def with_facts(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Seal a folder anew, as it is, with other facts."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest["facts"])
    seal(folder, manifest["kind"], manifest["facts"])


@pytest.mark.parametrize(("name", "fact"), [(name, fact) for name in KINDS for fact in FACTS[name]])
def test_a_manifest_without_a_fact_that_later_stages_use_is_refused(
    name: str, fact: str, store: Store, digits_run: Run
) -> None:
    reference = getattr(digits_run, name)
    with_facts(store.root / reference.path, lambda facts: facts.pop(fact))
    refused(store, reference, rf"manifest\.json: facts\.{fact}: Field required")


@pytest.mark.parametrize(
    ("name", "fact", "value"),
    [
        ("dataset", "rows", {"train": -1}), ("dataset", "rows", {"train": "90"}), ("dataset", "num_classes", 0),
        ("dataset", "label_counts", {"train": 3}), ("dataset", "rows_kind", "program"), ("module", "name", 3),
        ("module", "max_positions", "many"), ("encoded", "dataset", {}), ("task", "hidden_units", [0]),
        ("task", "num_classes", 10.5), ("task", "lora", {"rank": -1}), ("checkpoint", "steps", None),
        ("checkpoint", "task", "task"), ("evaluation", "metrics", {"test": {"accuracy": "high"}}),
        ("export", "training", {"best_metric": "accuracy"}), ("export", "checkpoint", "../../etc"),
    ],
)  # fmt: skip
def test_a_fact_of_another_kind_is_refused(name: str, fact: str, value: Any, store: Store, digits_run: Run) -> None:
    reference = getattr(digits_run, name)
    with_facts(store.root / reference.path, lambda facts: facts.update({fact: value}))
    refused(store, reference, rf"manifest\.json: facts\.{fact}")


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in FILES.items() for file in files])
def test_a_manifest_without_a_file_of_its_kind_is_refused(name: str, file: str, store: Store, digits_run: Run) -> None:
    """Although the file lies there: its content is not verified."""
    reference = getattr(digits_run, name)
    path = store.root / reference.path / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["files"][file]
    manifest["files"]["more.txt"] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    shutil.copy(path, path.with_name("more.txt"))
    path.write_text(json.dumps(manifest))
    refused(store, reference, f"its manifest lacks {file}")


@pytest.mark.parametrize("name", [name for name in KINDS if name != "export"])
def test_a_file_that_is_not_in_the_manifest_is_refused(name: str, store: Store, digits_run: Run) -> None:
    reference = getattr(digits_run, name)
    folder = store.root / reference.path
    (folder / ".DS_Store").write_bytes(b"of a file manager")
    assert store.open(reference)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    refused(store, reference, r"1 file\(s\) are not in its manifest: pytorch_model\.bin; remove them")


@pytest.mark.parametrize("name", KINDS)
def test_a_link_in_an_artifact_is_refused(name: str, store: Store, digits_run: Run) -> None:
    reference = getattr(digits_run, name)
    (store.root / reference.path / "passwd").symlink_to("/etc/passwd")
    refused(store, reference, r"link\(s\) or special file\(s\)")


@pytest.mark.parametrize("name", KINDS)
def test_an_artifact_of_another_kind_is_refused(name: str, store: Store, digits_run: Run) -> None:
    reference = getattr(digits_run, name)
    folder = store.root / reference.path
    seal(folder, "things", verify_folder(folder).facts)
    refused(store, reference, "a folder of 'things', expected one of")


@pytest.mark.parametrize(
    ("name", "file"), [("dataset", "test.parquet"), ("encoded", "test.arrow"), ("evaluation", "test.parquet")]
)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"ARROW1" + bytes(100)])
def test_a_table_that_is_none_is_refused(name: str, file: str, content: bytes, store: Store, digits_run: Run) -> None:
    reference = getattr(digits_run, name)
    (store.root / reference.path / file).write_bytes(content)
    with_facts(store.root / reference.path, lambda facts: None)
    refused(store, reference, rf"{file}: no table that can be read")


def test_an_artifact_that_lies_out_of_the_store_is_refused(store: Store, digits_run: Run, tmp_path: Path) -> None:
    folder = store.root / digits_run.export.path
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="leads out of the store"):
        store.open(digits_run.export)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.find("exports", folder.name)


def test_an_encoded_split_that_is_none_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "test.arrow").write_bytes(b"ARROW1" + bytes(100))
    with pytest.raises(StoreError, match=r"test\.arrow: no encoded rows that can be read"):
        open_images(tmp_path / "test.arrow", [0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"test": 3}', '{"test": {"details": {}}}', "[" * 100_000])
def test_details_that_are_none_are_refused(content: str, store: Store, digits_run: Run, tmp_path: Path) -> None:
    (tmp_path / "details.json").write_text(content)
    with pytest.raises(StoreError, match=r"details\.json"):
        load_details(tmp_path)
    assert read_details(store, digits_run.evaluation)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000], ids=range(5))
def test_a_verdict_that_is_none_is_refused(content: bytes, store: Store, digits_run: Run) -> None:
    verdict = verdict_on(str(store.root), digits_run.export, 0)
    (store.root / verdict.path / "verdict.json").write_bytes(content)
    with_facts(store.root / verdict.path, lambda facts: None)
    now = verdict.model_copy(update={"sha256": file_sha256(store.root / verdict.path / MANIFEST)})
    with pytest.raises(StoreError, match=r"verdict\.json: no readable verdict"):
        read_verdict(store, now)


def test_a_proof_that_is_not_in_the_manifest_is_no_verification(store: Store, digits_run: Run) -> None:
    """It would say what the gate asks for: a latency of nothing."""
    folder = store.root / digits_run.export.path
    verification = (folder / "verification.json").read_text()
    (folder / "verification.json").unlink()
    with_facts(folder, lambda facts: None)
    (folder / "verification.json").write_text(verification)
    found = store.find("exports", folder.name)
    assert found is not None
    settings = GateSettings.model_validate({"metric": "accuracy", "max_latency_ms": {"1": 1e9}})
    verdict = gate.fn(export_reference(found), digits_run.dataset, settings, EvaluateSettings(), "digits", str(store.root))
    assert verdict.verdict == "inconclusive"
    assert "is not known: the export has no verification.json" in verdict.reason
