"""Pickled weights are read as arrays; a file that asks for anything else is refused before anything of it runs."""

import copy
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

from hubflow.errors import WeightsError
from hubflow.modules.pickles import read_pickled_arrays

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
    expected: dict[str, Any] = {
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


def text(value: str) -> bytes:
    """A text as an opcode."""
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def tensor_opcodes(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = NUMEL, kind: str = "Float", key: str = "0"
) -> bytes:
    """What torch.save writes for a tensor, opcode by opcode, with numbers that may be wrong."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + b"I%d\ntQ" % numel
    hooks = b"ccollections\nOrderedDict\n)R"
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    return head + b"I%d\n" % offset + numbers(size) + numbers(stride) + b"\x89" + hooks + b"tR"


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = NUMEL) -> bytes:
    """What torch.save writes for {"weight": tensor}."""
    return b"\x80\x02}" + text("weight") + tensor_opcodes(offset, size, stride, numel) + b"s."


def torch_archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, storage: bytes | None = None) -> bytes:
    """A zip as torch.save makes it, its storage holding 0 to 5."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.arange(NUMEL, dtype="<f4").tobytes() if storage is None else storage)
    return stream.getvalue()


MANY = 2_000
MEGABYTE = 1_000_000
ORDERED = b"ccollections\nOrderedDict\nq\x01"


def copies(values: bytes, count: int = MANY) -> bytes:
    return b"](" + values * count + b"e."


def shared_tensors(kind: str, bytes_each: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    numel = MEGABYTE // bytes_each
    tensors = b"".join(text(f"w{number}") + tensor_opcodes(0, size, stride, numel, kind) for number in range(MANY))
    return torch_archive(b"\x80\x02}(" + tensors + b"u.", storage=bytes(MEGABYTE))


def archive_with(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    stream = io.BytesIO(torch_archive(tensor_pickle(0, (6,), (1,)), storage=bytes(MEGABYTE)))
    with zipfile.ZipFile(stream, "a") as archive:
        change(archive)
        archive._didModify = True  # type: ignore[attr-defined]  # so that the directory is written anew
    return stream.getvalue()


def with_overlapping_members(archive: zipfile.ZipFile) -> None:
    storage = archive.getinfo("archive/data/0")
    for number in range(1, 300):
        member = copy.copy(storage)
        member.filename = member.orig_filename = f"archive/data/{number}"
        archive.filelist.append(member)


def with_a_member_twice(archive: zipfile.ZipFile) -> None:
    archive.filelist.append(copy.copy(archive.getinfo("archive/data/0")))


def with_a_length_that_lies(archive: zipfile.ZipFile) -> None:
    archive.getinfo("archive/data/0").file_size = 1 << 30


def with_many_members(archive: zipfile.ZipFile) -> None:
    storage = archive.getinfo("archive/data/0")
    for number in range(50_000):
        member = copy.copy(storage)
        member.filename = member.orig_filename = f"archive/{number:0240}"
        archive.filelist.append(member)


EXPLODING: dict[str, tuple[bytes, str]] = {
    "a memo of 4 GiB in 9 bytes": (b"\x80\x02}r\xff\xff\xff\x0f.", ""),
    "bytes that are not there": (b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b".", "of which 1 are there"),
    "a bytearray that is not there": (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".", "of which 1 are there"),
    "a text that is not there": (b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b".", "of which 1 are there"),
    "tuples of a text": (
        b"\x80\x02" + text("x" * MEGABYTE) + b"q\x00c__builtin__\ntuple\nq\x01" + copies(b"h\x01h\x00\x85R"),
        "a tuple of a str",
    ),
    "tuples of a list": (
        b"\x80\x02](" + b"N" * 100_000 + b"eq\x00c__builtin__\ntuple\nq\x01" + copies(b"h\x01h\x00\x85R"),
        "limits.max_weights_expansion",
    ),
    "bytes of a text": (
        b"\x80\x02" + text("x" * MEGABYTE) + b"q\x00" + text("latin1") + b"q\x02"
        b"c_codecs\nencode\nq\x01" + copies(b"h\x01h\x00h\x02\x86R"),
        "limits.max_weights_expansion",
    ),
    "dicts of a list of pairs": (
        b"\x80\x02" + ORDERED + b"](" + (text("k") + b"N\x86") * 100_000 + b"eq\x00" + copies(b"h\x01h\x00\x85R"),
        "limits.max_weights_expansion",
    ),
    "attributes given to dicts": (
        b"\x80\x02"
        + ORDERED
        + b"}q\x02("
        + b"".join(text(f"k{one}") + b"N" for one in range(50_000))
        + b"u"
        + copies(b"h\x01)Rh\x02b"),
        "holds a list",
    ),
    "sets": (b"\x80\x04" + copies(b"\x8f", 2_000_000), "EMPTY_SET"),
    "more objects than tensors have": (b"\x80\x02" + copies(b"}", 2_000_100), "limits.max_tensors"),
    "keys of one hash": (
        b"\x80\x02}("
        + b"".join(b"\x8a\x0c" + ((2**61 - 1) * one).to_bytes(12, "little", signed=True) + b"N" for one in range(20_000))
        + b"u.",
        "neither text nor a small number",
    ),
    "one array of bfloat16 by many names": (
        pickle.dumps(dict.fromkeys((f"w{one}" for one in range(MANY)), np.zeros(MEGABYTE // 2, np.uint16)), 4),
        "limits.max_weights_expansion",
    ),
    "a number without end": (b"\x80\x02I" + b"9" * MEGABYTE + b"\n.", "a line that does not end"),
    "tensors of one number": (shared_tensors("Float", 4, (500, 500), (0, 0)), "limits.max_weights_expansion"),
    "tensors of one storage": (
        shared_tensors("BFloat16", 2, (MEGABYTE // 2,), (1,)),
        "limits.max_weights_expansion",
    ),
    "a tensor of many dimensions": (torch_archive(tensor_pickle(0, (1,) * 40, (1,) * 40)), "known: up to 32"),
    "members that overlap": (archive_with(with_overlapping_members), "overlap, or are not as long"),
    "a member twice": (archive_with(with_a_member_twice), "two members of one name"),
    "a length that lies": (archive_with(with_a_length_that_lies), "overlap, or are not as long"),
    "a directory of many members": (archive_with(with_many_members), "more members than limits.max_tensors"),
    "an archive before other bytes": (torch_archive(tensor_pickle(0, (6,), (1,))) + b"more", "followed by something else"),
}
"""Small files that took gigabytes or minutes: what is said of each, or nothing where it holds no more than it should."""


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPLODING)
def test_a_file_that_would_explode_is_refused(tmp_path: Path, case: str) -> None:
    content, fault = EXPLODING[case]
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    if not fault:
        assert read_pickled_arrays(path) == {}
        return
    with pytest.raises(WeightsError, match=f"{path}.*{fault}"):
        read_pickled_arrays(path)


@pytest.mark.slow
def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path) -> None:
    for number, (content, _) in enumerate(EXPLODING.values()):
        (tmp_path / f"{number}.bin").write_bytes(content)
    script = """
import sys
from pathlib import Path
from hubflow.errors import WeightsError
from hubflow.modules.pickles import read_pickled_arrays
def peak():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
for path in sorted(Path(sys.argv[1]).glob("*.bin")):
    try:
        read_pickled_arrays(path)
    except WeightsError:
        pass
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    largest = max(len(content) for content, _ in EXPLODING.values()) // 1_000_000
    assert int(done.stdout) < 100 + 4 * largest, "MiB"


def test_the_limits_are_settings_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pdparams"
    array = np.ones(1000, np.uint16)
    path.write_bytes(pickle.dumps({f"w{one}": array for one in range(5)}, 4))
    with pytest.raises(WeightsError, match=r"limits\.max_weights_expansion"):
        read_pickled_arrays(path)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_WEIGHTS_EXPANSION", "20")
    assert len(read_pickled_arrays(path)) == 5
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_TENSORS", "1")
    path.write_bytes(pickle.dumps({f"w{one}": np.ones(1) for one in range(20)}, 4))
    with pytest.raises(WeightsError, match=r"limits\.max_tensors"):
        read_pickled_arrays(path)


def test_tensors_that_share_a_storage_are_read(tmp_path: Path) -> None:
    """As tied embeddings do, in half precision too."""
    for kind, dtype in (("Float", np.float32), ("Half", np.float16)):
        path = tmp_path / f"{kind}.bin"
        numel = 10_000
        tied = b"".join(text(name) + tensor_opcodes(0, (100, 100), (100, 1), numel, kind) for name in ("embeddings", "decoder"))
        path.write_bytes(torch_archive(b"\x80\x02}(" + tied + b"u.", storage=np.arange(numel).astype(dtype).tobytes()))
        arrays = read_pickled_arrays(path)
        np.testing.assert_array_equal(arrays["embeddings"], np.arange(numel).astype(dtype).reshape(100, 100))
        np.testing.assert_array_equal(arrays["embeddings"], arrays["decoder"])


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
        "import sys; from pathlib import Path; from hubflow.modules.weights import read_weights; "
        f"import tempfile, shutil; folder = Path(tempfile.mkdtemp()); "
        f"shutil.copy({str(ASSETS / TORCH_FILES[0])!r}, folder / 'pytorch_model.bin'); read_weights(folder); "
        "shutil.rmtree(folder); sys.exit('paddle' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_assets_stay_small() -> None:
    assert all((ASSETS / name).stat().st_size < 5_000 for name in TORCH_FILES)
