"""Pickled weights are read as arrays; a file that asks for anything else is refused before anything of it runs."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubflow.stages.hub.errors import WeightsError
from hubflow.stages.hub.pickles import read_pickled_arrays

ASSETS = Path(__file__).parent / "assets"
TORCH_FILES = ["torch_weights.bin", "torch_weights_before_1_6.bin"]


class Calls:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("name", TORCH_FILES)
def test_a_bin_of_pytorch_gives_its_arrays(name: str) -> None:
    arrays = read_pickled_arrays(ASSETS / name)
    expected = {
        "weight": np.ones(2, np.float32),
        "bias": np.zeros(2, np.float32),
        "running_mean": np.zeros(2, np.float32),
        "running_var": np.ones(2, np.float32),
        "num_batches_tracked": np.array(0, np.int64),
        "whole": np.arange(6, dtype=np.float32),
        "window": np.arange(2, 5, dtype=np.float32),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "half": np.array([1.0, -0.5, 65504.0], np.float16),
        "brain": np.array([1.0, -2.5, 3.0e38], np.float32),
        "flags": np.array([True, False]),
        "scalar": np.array(7.0, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones(2, np.float32),
    }
    assert list(arrays) == list(expected)
    for name_, array in expected.items():
        assert arrays[name_].dtype == array.dtype
        assert arrays[name_].shape == array.shape
        np.testing.assert_allclose(arrays[name_], array, rtol=2**-8 if name_ == "brain" else 0)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pdparams_of_paddle_gives_its_arrays(tmp_path: Path, protocol: int) -> None:
    import paddle

    paddle.disable_static()
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.BatchNorm1D(2))
    state = layer.state_dict()
    expected = {name: value.numpy() for name, value in state.items()}
    paddle.save(state, str(tmp_path / "state.pdparams"), protocol=protocol)
    paddle.save({"tensor": state["0.weight"]}, str(tmp_path / "tensor.pdparams"), protocol=protocol)
    paddle.save({"brain": state["0.weight"].astype("bfloat16")}, str(tmp_path / "brain.pdparams"), protocol=protocol)
    arrays = read_pickled_arrays(tmp_path / "state.pdparams")
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    np.testing.assert_array_equal(read_pickled_arrays(tmp_path / "tensor.pdparams")["tensor"], expected["0.weight"])
    brain = read_pickled_arrays(tmp_path / "brain.pdparams")["brain"]
    assert brain.dtype == np.float32
    np.testing.assert_allclose(brain, expected["0.weight"], rtol=2**-7)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_come_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "bytes": np.arange(3, dtype=np.uint8),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 2), np.float32),
    }
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps(OrderedDict(arrays), protocol=protocol))
    found = read_pickled_arrays(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def hostile(content: object) -> dict[str, bytes]:
    """A hostile object as each kind of file."""
    plain = pickle.dumps(content, protocol=2)
    header = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    return {"pdparams": plain, "zip": torch_archive(plain), "legacy": header + plain + pickle.dumps([], protocol=2)}


@pytest.mark.parametrize("kind", ["pdparams", "zip", "legacy"])
def test_a_file_that_would_run_a_command_is_refused_by_name_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(hostile({"weight": Calls(os.system, f"touch {marker}")})[kind])
    with pytest.raises(WeightsError, match=rf"{path}: asks for {os.system.__module__}\.system, which is refused"):
        read_pickled_arrays(path)
    assert not marker.exists()
    pickle.loads(hostile({"weight": Calls(os.system, f"touch {marker}")})["pdparams"])  # noqa: S301 - our own bytes
    assert marker.exists(), "the file would have run its command"


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (eval, "eval"),
        (exec, "exec"),
        (getattr, "getattr"),
        (__import__, "__import__"),
        (np.load, r"numpy\.load"),
        (subprocess.check_output, r"\.check_output"),
    ],
)
def test_every_other_name_is_refused(tmp_path: Path, function: Callable[..., Any], named: str) -> None:
    for kind, content in hostile([Calls(function, "1")]).items():
        path = tmp_path / f"{kind}.bin"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=named):
            read_pickled_arrays(path)


def test_names_below_an_admitted_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.")
    with pytest.raises(WeightsError, match=r"numpy\.ndarray\.__init__"):
        read_pickled_arrays(path)


def test_an_admitted_name_cannot_be_altered_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)b.")
    with pytest.raises(WeightsError, match="alter an object"):
        read_pickled_arrays(path)


@pytest.mark.parametrize("array", [np.array([{}, None], object), np.zeros(2, [("a", "f4")]), np.array(["text"])])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"weight": array}, protocol=4))
    with pytest.raises(WeightsError, match="dtype"):
        read_pickled_arrays(path)


NUMEL = 6


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (4, (3,), (1,)),
        (-1, (3,), (1,)),
        (0, (2, 3), (3, 2)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (1_000_000, 1_000_000), (0, 0)),
        (0, (2,), (1, 1)),
        (7, (0,), (1,)),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_archive(tensor_pickle(offset, size, stride)))
    with pytest.raises(WeightsError, match=rf"{path}: holds a tensor"):
        read_pickled_arrays(path)


def test_the_same_tensor_within_its_storage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_archive(tensor_pickle(1, (2, 2), (2, 1))))
    np.testing.assert_array_equal(read_pickled_arrays(path)["weight"], [[1, 2], [3, 4]])


def test_a_storage_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_archive(tensor_pickle(0, (1,), (1,), numel=NUMEL + 1)))
    with pytest.raises(WeightsError, match="storage 0 with 24 bytes where its tensors expect 28"):
        read_pickled_arrays(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_archive(tensor_pickle(0, (6,), (1,)), zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match="uncompressed"):
        read_pickled_arrays(path)


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = NUMEL) -> bytes:
    """What torch.save writes for {"weight": tensor}, opcode by opcode, with numbers that may be wrong."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"I%d\ntQ" % numel
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I%d\n" % offset + numbers(size) + numbers(stride)
    return b"\x80\x02}" + text("weight") + tensor + b"\x89" + hooks + b"tRs."


def torch_archive(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch.save makes it, its storage holding 0 to 5."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.arange(NUMEL, dtype="<f4").tobytes())
    return stream.getvalue()


@pytest.mark.parametrize("name", TORCH_FILES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused_naming_it(tmp_path: Path, name: str, share: float) -> None:
    content = (ASSETS / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=name):
        read_pickled_arrays(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a pickle", b"\x80\x04N.", b"\x80\x05\x95", bytes(1000)])
def test_rubbish_is_refused_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=str(path)):
        read_pickled_arrays(path)


def test_what_is_not_an_array_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"weight": np.ones(1), "epoch": 3, "nested": {"a": 1}}))
    with pytest.raises(WeightsError, match=r"'epoch' \(int\), 'nested' \(dict\); save the bare state dict"):
        read_pickled_arrays(path)


def test_neither_paddle_nor_pytorch_is_imported() -> None:
    script = (
        "import sys; from pathlib import Path; from hubflow.stages.hub.weights import read_weights; "
        f"import tempfile, shutil; folder = Path(tempfile.mkdtemp()); "
        f"shutil.copy({str(ASSETS / TORCH_FILES[0])!r}, folder / 'pytorch_model.bin'); read_weights(folder); "
        "shutil.rmtree(folder); sys.exit('paddle' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_assets_stay_small() -> None:
    assert all((ASSETS / name).stat().st_size < 5_000 for name in TORCH_FILES)
