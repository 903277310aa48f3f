"""A Kedro pipeline of hubflow's stages, whose catalog lies in memory, in a folder and in object storage."""

import uuid
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
import yaml
from example_programs import PIPELINES, load_example
from object_storage import ObjectStorage
from reviews import review_frame

from hubflow.schemas import DatasetRef, ExportRef
from hubflow.store.store import Store
from hubflow.testing import FilledStore
from hubflow.testing.modules import TinyModule

pytestmark = pytest.mark.soak


def catalog_at(root: str, folder: Path, parameters: dict[str, Any]) -> Any:
    """The example's catalog as Kedro's configuration loader reads it, with another root."""
    from kedro.config import OmegaConfigLoader
    from kedro.io import DataCatalog, MemoryDataset

    base = folder / "conf" / "base"
    base.mkdir(parents=True)
    text = (PIPELINES / "kedro_catalog.yml").read_text(encoding="utf-8")
    (base / "catalog.yml").write_text(text.replace("s3://bucket/reviews", root), encoding="utf-8")
    (base / "parameters.yml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    loaded = OmegaConfigLoader(str(folder / "conf"), base_env="base", default_run_env="base")
    catalog = DataCatalog.from_config(loaded["catalog"])
    for name, value in loaded["parameters"].items():
        catalog[f"params:{name}"] = MemoryDataset(value)
    return catalog


def run(root: str, folder: Path, store: str, tiny: TinyModule) -> Any:
    from kedro.runner import SequentialRunner

    parameters = {
        "store": store,
        "module": tiny.spec.model_dump(mode="json"),
        "train": tiny.train.model_dump(mode="json", exclude_defaults=True),
    }
    catalog = catalog_at(root, folder, parameters)
    catalog.save("reviews", review_frame().drop(columns="id"))
    catalog.save("new_reviews", pd.DataFrame({"id": [2**40, 7], "text": ["a great product", "an awful product"]}))
    SequentialRunner().run(load_example("pipelines/kedro_pipeline").create_pipeline(), catalog)
    return catalog


def check(catalog: Any, store: str) -> None:
    labelled = catalog.load("labelled_reviews")
    assert labelled["id"].tolist() == [2**40, 7]
    assert labelled["label"].tolist() == ["good", "bad"]
    assert labelled["probability"].between(0.5, 1).all()
    dataset, export = DatasetRef.model_validate(catalog.load("dataset")), ExportRef.model_validate(catalog.load("export"))
    assert Store(store).open(dataset).sha256 == dataset.sha256
    assert Store(store).open(export).sha256 == export.sha256


def test_a_catalog_in_memory(tmp_path: Path, hubflow_store: str, tiny_text_module: TinyModule) -> None:
    folder = uuid.uuid4().hex
    check(run(f"memory://reviews/{folder}", tmp_path, hubflow_store, tiny_text_module), hubflow_store)
    assert fsspec.filesystem("memory").exists(f"/{folder}/labelled_reviews.parquet")


def test_a_catalog_in_a_folder(tmp_path: Path, hubflow_store: str, tiny_text_module: TinyModule) -> None:
    check(run(f"file://{tmp_path}/data", tmp_path, hubflow_store, tiny_text_module), hubflow_store)
    assert (tmp_path / "data" / "labelled_reviews.parquet").exists()


def test_a_catalog_in_object_storage(s3: ObjectStorage, tmp_path: Path, filled_store: FilledStore) -> None:
    """Only the last node runs: the others differ in nothing from those above."""
    from kedro.runner import SequentialRunner

    catalog = catalog_at(f"s3://{s3.bucket}/reviews", tmp_path, {"store": filled_store.path, "module": {}, "train": {}})
    catalog.save("export", filled_store.export.model_dump(mode="json"))
    catalog.save("new_reviews", pd.DataFrame({"id": [1, 2], "text": ["awful", "great"]}))
    pipeline = load_example("pipelines/kedro_pipeline").create_pipeline()
    SequentialRunner().run(pipeline.to_outputs("labelled_reviews").from_inputs("export"), catalog)
    assert catalog.load("labelled_reviews")["id"].tolist() == [1, 2]
    assert any(name.endswith("labelled_reviews.parquet") for name in fsspec.filesystem("s3").find(f"{s3.bucket}/reviews"))
