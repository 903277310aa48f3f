"""load_module: a module's files kept in the store, found again by content, and refusals by name."""

from pathlib import Path

import pytest
from runs import WORDS
from small_modules import make_tiny_bert

from hubflow.errors import HubflowError
from hubflow.schemas.settings import ModuleSpec
from hubflow.stages.load_module import load_module
from hubflow.store.store import Store


def test_a_modules_files_are_kept_and_found_again(tmp_path: Path) -> None:
    folder, store = make_tiny_bert(tmp_path / "bert", WORDS), str(tmp_path / "store")
    spec = ModuleSpec(name=str(folder), max_seq_len=64)
    module = load_module.fn(spec, store)
    assert (module.module_kind, module.architecture, module.max_positions) == ("text", "bert", 64)
    kept = {path.name for path in Store(store).open(module).folder.iterdir()}
    assert kept == {"config.json", "model.safetensors", "vocab.txt", "manifest.json"}
    assert load_module.fn(spec, store) == module
    make_tiny_bert(folder, [*WORDS, "more"])
    assert load_module.fn(spec, store) != module


def test_fresh_weights_need_no_weight_files(tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "bert", WORDS)
    (folder / "model.safetensors").unlink()
    module = load_module.fn(ModuleSpec(name=str(folder), pretrained=False, max_seq_len=8), str(tmp_path / "store"))
    assert not module.pretrained
    with pytest.raises(HubflowError, match=r"bert: no weights .*set pretrained: false"):
        load_module.fn(ModuleSpec(name=str(folder), max_seq_len=8), str(tmp_path / "store"))


def test_a_sequence_longer_than_the_position_table_is_refused(tmp_path: Path) -> None:
    spec = ModuleSpec(name=str(make_tiny_bert(tmp_path / "bert", WORDS)), max_seq_len=65)
    with pytest.raises(HubflowError, match=r"bert: max_seq_len is 65; this module allows 1 to 64 tokens"):
        load_module.fn(spec, str(tmp_path / "store"))
