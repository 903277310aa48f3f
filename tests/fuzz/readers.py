"""Every reader of files that may come from a stranger: sound inputs, words of its format, and how it is called.

An input is a byte, which chooses among the variants of a reader, and the content of a file.
"""

import base64
import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as pq
import yaml
from mutations import Change, header_change, inside, json_change, png_change, tail_change, zip_change
from PIL import Image
from safetensors.numpy import save

from hubflow.data.readers.reading import iter_rows, read_label_list
from hubflow.data.staging import as_table
from hubflow.errors import HubflowError
from hubflow.inference.opened_export import open_draft
from hubflow.modules.images import decode_image
from hubflow.modules.module import read_config
from hubflow.modules.tokenizer import encode_texts, encode_words, load_tokenizer
from hubflow.modules.weights import read_weights, weight_names
from hubflow.programs.operators import checked_program
from hubflow.schemas.deployment import NightlySettings
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, PredictSettings
from hubflow.schemas.sweep import SweepSettings
from hubflow.schemas.tasks import TaskName
from hubflow.store.manifest import verify_folder
from hubflow.store.signing import require_trusted

ASSETS = Path(__file__).parents[1] / "modules" / "assets"
WORDS = ("a", "fine", "dull", "film", "##s", "é")
TEXTS = ["a fine film", "dull films 2 \u00e9\u4e2d", ""]


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        name: of the reader.
        seeds: sound inputs.
        read: reads one input in an empty folder, and gives something that tells kinds of results apart.
        tokens: words of the format.
        changes: kinds of changes that know the format.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    tokens: Sequence[bytes] = ()
    changes: Sequence[Change] = ()


FINE_TUNE: dict[str, Any] = {
    "name": "reviews",
    "task": "text_classification",
    "module": {"name": "./module", "max_seq_len": 16, "lora": {"rank": 4}},
    "data": {"format": "csv", "train": "a.csv", "dev_fraction": 0.1, "checks": {}, "contract": "rules:Rows", "delimiter": ";"},
    "train": {"epochs": 2, "learning_rate": 1e-3, "optimizer": {"name": "adamw"}, "batch_size": 8},
    "evaluate": {"metrics": ["rules:share"], "slices": {"columns": ["label"]}},
    "export": {},
    "store": "s3://bucket/prefix",
    "device": "cpu",
}
SETTINGS = (FineTuneSettings, NightlySettings, PredictSettings, SweepSettings)
SWEEP = {"base": FINE_TUNE, "trials": 3, "space": {"train.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}}


def _settings(ending: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        path = folder / f"run.{ending}"
        path.write_bytes(data[1:])
        values = read_settings(path)
        faults = []
        for model in SETTINGS:
            try:
                parse_settings(model, values, str(path))
            except HubflowError as error:
                faults.append(str(error).count("\n"))
        return tuple(faults)

    return read


def _overrides(data: bytes, _folder: Path) -> object:
    entries = data[1:].decode("utf-8", "replace").split("\n")
    return len(with_overrides({"train": {"epochs": 2}}, entries))


def _yaml_seeds() -> list[bytes]:
    anchored = b"base: &base {a: 1}\nother: {<<: *base, b: [*base, *base]}\nwhen: 2026-01-01 10:00:00\ntext: |\n  a\n  b\n"
    texts = [*(yaml.safe_dump(one).encode() for one in (FINE_TUNE, SWEEP)), json.dumps(FINE_TUNE).encode(), anchored]
    return [b"\0" + text for text in texts]


def _json_seeds() -> list[bytes]:
    return [b"\0" + json.dumps(one).encode() for one in (FINE_TUNE, SWEEP, {"export": "x", "data": ["a.csv"], "top_k": 3})]


YAML_TOKENS = (
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!python/object/apply:os.system ",
    b"!!binary ",
    b"!!timestamp ",
    b"!!set ",
    b"? ",
    b"- ",
    b"[",
    b"{",
    b": ",
    b"|\n",
    b">-\n",
    b"%YAML 1.1\n---\n",
    b"!!float .inf",
    b"0x_",
    b"1:30:60",
    b"!!int ",
    b"0b",
    b"2026-99-99",
    b"!!omap ",
    b"!!pairs ",
)
JSON_TOKENS = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"\\u0000", b"\\ud83d", b'{"a":', b"[[[[[[[[")


Variant = tuple[dict[str, Any], TaskName, bool, str]
"""Settings of the data, the task, whether rows need labels, and the file's name."""


def _rows(variants: Sequence[Variant], chunk_rows: int = 50) -> Callable[[bytes, Path], object]:
    made: list[tuple[DatasetSpec, TaskName, bool, str]] = [
        (DatasetSpec(train="x", **settings), task, labelled, name) for settings, task, labelled, name in variants
    ]

    def read(data: bytes, folder: Path) -> object:
        spec, task, labelled, name = made[data[0] % len(made)] if data else made[0]
        path = folder / name
        path.write_bytes(data[1:])
        kinds: set[str] = set()
        for chunk in iter_rows(spec, path, "train", task, labelled, chunk_rows):
            kinds.update(chunk.malformed["check"])
            kinds.update(chunk.skipped)
            try:
                kinds.update(map(str, as_table(chunk.rows, name).schema.types))
            except HubflowError as error:
                kinds.add(type(error).__name__)
        return frozenset(kinds)

    return read


TEXT: TaskName = "text_classification"
TOKENS: TaskName = "sequence_labelling"
DELIMITED: list[Variant] = [
    ({"format": "csv"}, TEXT, True, "a.csv"),
    ({"format": "csv", "quoting": False}, TEXT, True, "a.csv"),
    ({"format": "tsv"}, TEXT, True, "a.tsv"),
    ({"format": "tsv", "quote": "'", "escape": "\\"}, TEXT, True, "a.tsv"),
    ({"format": "csv", "header": False, "text_column": 0, "label_column": 1, "delimiter": ";"}, TEXT, True, "a.csv"),
    ({"format": "csv", "text_pair_column": "more"}, TEXT, False, "a.csv.gz"),
    ({"format": "csv", "encoding": "utf-16"}, TEXT, True, "a.csv"),
    ({"format": "csv", "encoding": "gb18030"}, TEXT, True, "a.csv"),
    ({"format": "csv", "encoding": "iso2022_jp"}, TEXT, True, "a.csv"),
    ({"format": "csv", "encoding": "utf-7"}, TEXT, True, "a.csv"),
    ({"format": "csv", "encoding": "cp1252"}, TEXT, True, "a.csv"),
]
CSV = 'text,label,more\n"a ""fine"" film",1,x\n"two\nlines",0,y\né,1,\n'


def _compressed(data: bytes) -> list[bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.csv", data)
    zstd = arrow.BufferOutputStream()
    with arrow.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(data)
    return [
        gzip.compress(data, mtime=0),
        bz2.compress(data),
        lzma.compress(data),
        zstd.getvalue().to_pybytes(),
        archive.getvalue(),
    ]


def _delimited_seeds() -> list[bytes]:
    text = CSV.encode()
    seeds = [bytes([variant]) + text for variant in range(len(DELIMITED))]
    seeds += [
        b"\2" + text.replace(b",", b"\t"),
        b"\4" + text.replace(b",", b";"),
        b"\3" + text.replace(b",", b"\t").replace(b'"', b"'"),
    ]
    seeds += [b"\6" + CSV.encode("utf-16"), b"\7" + CSV.encode("gb18030"), b"\5" + text.replace(b"\n", b"\r\n")]
    return seeds + [b"\5" + content for content in _compressed(text)]


JSON_LINES: list[Variant] = [
    ({"format": "jsonl"}, TEXT, True, "a.jsonl"),
    ({"format": "jsonl"}, TOKENS, True, "a.jsonl"),
    ({"format": "jsonl", "text_pair_column": "more"}, TEXT, False, "a.json"),
]


def _jsonl_seeds() -> list[bytes]:
    records: list[dict[str, Any]] = [
        {"text": "a fine film", "label": 1, "more": "x", "id": 7, "score": 0.25, "tags": ["a", 1], "inner": {"a": {"b": None}}},
        {"text": "dull \u00e9", "label": "0", "more": None, "id": 2**70, "score": 1e-300, "tags": [], "inner": {}},
        {"text": "other", "label": True, "more": "y", "id": None, "score": 3, "tags": [[1.5]], "inner": []},
    ]
    words = [{"tokens": ["a", "fine"], "labels": ["O", "B-X"]}, {"tokens": ["film"], "labels": [1]}]
    lines = "\n".join(map(json.dumps, records)).encode()
    return [
        b"\0" + lines,
        b"\0" + json.dumps(records, indent=1).encode(),
        b"\1" + "\n".join(map(json.dumps, words)).encode(),
        b"\2" + lines,
        b"\0" + gzip.compress(lines, mtime=0),
    ]


CONLL: list[Variant] = [
    ({"format": "conll"}, TOKENS, True, "a.conll"),
    ({"format": "conll", "label_column": "UPOS"}, TOKENS, True, "a.conllu"),
    ({"format": "conll"}, TOKENS, False, "a.txt"),
    ({"format": "msra"}, TOKENS, True, "a.tsv"),
    ({"format": "msra"}, TOKENS, False, "a.tsv"),
    ({"format": "conll", "tokens_column": 1, "label_column": -2}, TOKENS, True, "a.conll"),
]


def _conll_seeds() -> list[bytes]:
    plain = b"-DOCSTART- -X- O\n\n# a comment\na DT O\nfine JJ B-X\nfilm NN I-X\n\ndull JJ O\n"
    rows = [f"{number}\t{word}\t{word}\tNOUN\tNN\t_\t0\troot\t_\t_" for number, word in enumerate(("a", "fine", "film"), 1)]
    conllu = ("# text = a fine film\n1-2\tafine\t_\t_\t_\t_\t_\t_\t_\t_\n" + "\n".join(rows) + "\n\n").encode()
    named = b"# global.columns = ID FORM UPOS\n1\ta\tX\n2\tfilm\tY\n\n"
    msra = b"text_a\tlabel\na\x02fine\tO\x02B-X\nfilm\tO\n"
    return [b"\0" + plain, b"\1" + conllu, b"\1" + named, b"\2" + plain, b"\3" + msra, b"\4" + msra, b"\5" + plain]


PARQUET: list[Variant] = [
    ({"format": "parquet"}, TEXT, True, "a.parquet"),
    ({"format": "parquet"}, TOKENS, True, "a.parquet"),
    ({"format": "parquet"}, TEXT, False, "a.parquet"),
]


def _parquet_seeds() -> list[bytes]:
    features = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
    text = arrow.table({"text": ["a fine film", "dull"] * 4, "label": [1, 0] * 4}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    more = arrow.table(
        {
            "text": arrow.array(["a", "b", None]).dictionary_encode(),
            "label": arrow.array([0.5, 1.0, None]),
            "inner": arrow.array([{"a": [1, 2], "b": {"c": "x"}}, None, {"a": [], "b": None}]),
            "map": arrow.array([[("k", 1)], [], None], arrow.map_(arrow.string(), arrow.int8())),
            "when": arrow.array([1, 2, None], arrow.timestamp("us", "Europe/Berlin")),
            "money": arrow.array(["1.25", "3.50", None]).cast(arrow.decimal128(9, 2)),
            "bytes": arrow.array([b"\xff", b"", None]),
        }
    )
    words = arrow.table({"tokens": [["a", "fine"], ["film"]], "labels": [["O", "B-X"], ["O"]]})
    seeds = []
    for variant, table in ((0, text), (0, more), (1, words), (2, more)):
        for compression in ("none", "snappy", "zstd", "gzip"):
            out = io.BytesIO()
            pq.write_table(table, out, compression=compression, use_dictionary=compression != "none", row_group_size=5)
            seeds.append(bytes([variant]) + out.getvalue())
    out = io.BytesIO()
    pq.write_table(
        text, out, column_encoding={"label": "DELTA_BINARY_PACKED", "text": "DELTA_BYTE_ARRAY"}, use_dictionary=False
    )
    return [*seeds, b"\0" + out.getvalue()]


LISTS: list[Variant] = [({"format": "image_list"}, "image_classification", labelled, "list.txt") for labelled in (True, False)]
_read_list = _rows(LISTS)


def _image_list(data: bytes, folder: Path) -> object:
    for name in ("cat.png", "a dog.png"):
        if not (folder / name).exists():
            Image.new("RGB", (2, 2)).save(folder / name)
    return _read_list(data, folder)


def _image_list_seeds() -> list[bytes]:
    texts = [
        "cat.png 0\na dog.png 1\n",
        "path\tlabel\ncat.png\tcat\na dog.png\tdog\n",
        '0,cat.png\n1,"a dog.png"\n',
        "cat.png\na dog.png\n",
    ]
    return [bytes([labelled]) + text.encode() for text in texts for labelled in (0, 1)]


def _label_list(data: bytes, folder: Path) -> object:
    path = folder / "labels.txt"
    path.write_bytes(data[1:])
    if data[:1] == b"\1":
        path = folder / "label_map.json"
        path.write_bytes(data[1:])
        return len(LabelMap.load(path).labels)
    return len(read_label_list(path, numbered=data[:1] == b"\2"))


def _image(data: bytes, folder: Path) -> object:
    path = folder / "image"
    path.write_bytes(data[1:])
    seen = decode_image(data[1:] if data[:1] == b"\1" else path, 16, "image")
    return seen.changes, seen.width > 64


def _image_seeds() -> list[bytes]:
    colours = Image.linear_gradient("L").resize((12, 9))
    seeds = []
    for mode, formats in {
        "RGB": ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"),
        "L": ("JPEG", "PNG", "PPM"),
        "P": ("PNG", "GIF"),
        "RGBA": ("PNG", "WEBP"),
        "I;16": ("PNG", "TIFF"),
        "1": ("PNG", "TIFF", "PPM"),
        "CMYK": ("JPEG", "TIFF"),
    }.items():
        image = (
            Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600) if mode == "I;16" else colours.convert(mode)
        )
        for name in formats:
            out = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            more: dict[str, Any] = {"exif": exif} if name in ("JPEG", "PNG", "WEBP") else {}
            if name == "TIFF":
                more = {"compression": "group4" if mode == "1" else "tiff_lzw"}
            try:
                image.save(out, name, **more)
            except (OSError, KeyError):  # this Pillow has no such writer
                continue
            seeds.append(b"\0" + out.getvalue())
    frames = io.BytesIO()
    colours.save(frames, "GIF", save_all=True, append_images=[colours.rotate(90)])
    interlaced = io.BytesIO()
    colours.convert("RGB").save(interlaced, "JPEG", progressive=True, icc_profile=_profile())
    return [*seeds, b"\0" + frames.getvalue(), b"\1" + interlaced.getvalue()]


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def run(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data[1:])
        return read(folder)

    return run


PUBLIC_KEY = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
"""Of the first test vector of RFC 8032."""


def _manifest_seeds() -> list[bytes]:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest = {"kind": "exports", "format_version": 2, "facts": {"a": 1}, "files": {"b": {"sha256": empty, "bytes": 0}}}
    return [b"\0" + json.dumps(one).encode() for one in (manifest, {**manifest, "files": {}})]


def _program_seeds() -> list[bytes]:
    operator = {
        "#": "1.matmul",
        "I": [{"%": 1}],
        "O": [{"%": 2, "TT": {"#": "0.t_dtensor", "D": ["0.t_f32", [-1, 3], "NCHW", [], 0]}}],
    }
    weight = {
        "#": "p",
        "A": [0, 1, 1, "w"],
        "O": {"%": 1, "TT": {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, [3], "NCHW", [], 0]}},
    }
    inner = {**operator, "#": "1.while", "regions": [{"#": "r", "blocks": [{"#": "b", "args": [], "ops": [operator]}]}]}
    form = {"magic": "pir", "trainable": True, "version": 4}
    seeds = []
    for operators in ([operator, inner], [weight, operator]):
        region = {"#": "region_0", "blocks": [{"#": "block_0", "args": [], "ops": operators}]}
        seeds.append(b"\0" + json.dumps({"base_code": form, "program": {"regions": [region]}}).encode())
    return seeds


def _program(data: bytes, folder: Path) -> object:
    return len(checked_program(data[1:], folder / "program.json").parameters)


def _signature_seeds() -> list[bytes]:
    ids = {name: {"shape": [-1, -1], "dtype": "int64"} for name in ("input_ids", "segment_ids")}
    probs = {"probs": {"shape": [-1, 2], "dtype": "float32"}}
    text = {"task": "text_classification", "inputs": ids, "outputs": probs, "rows_kind": "text", "precision": "float32"}
    pixels = {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "background": [255] * 3, "image_rules": 1}
    image = {"task": "image_classification", "inputs": {"image": {"shape": [-1, 3, -1, -1], "dtype": "float32"}}}
    return [
        b"\0" + json.dumps({**text, "text": {"max_seq_len": 16, "pad_token_id": 0}}).encode(),
        b"\0" + json.dumps({**text, **image, "rows_kind": "image", "image": pixels}).encode(),
    ]


def _signature(folder: Path) -> object:
    (folder / "label_map.json").write_text('["a", "b"]')
    return open_draft(folder).signature["task"]


def _signed(data: bytes, folder: Path) -> object:
    """Signatures of an export, where a key is trusted."""
    (folder / "b").write_bytes(b"")
    (folder / "manifest.json").write_bytes(_manifest_seeds()[0][1:])
    (folder / "manifest.sig").write_bytes(data[1:])
    return require_trusted(verify_folder(folder), (PUBLIC_KEY,))


def _signed_seeds() -> list[bytes]:
    one = {
        "algorithm": "ed25519",
        "key": hashlib.sha256(base64.b64decode(PUBLIC_KEY)).hexdigest(),
        "signature": "A" * 86 + "==",
    }
    return [b"\0" + json.dumps({"format_version": 1, "signatures": [one, {**one, "key": "0" * 64}]}).encode()]


def _pickle_seeds() -> list[bytes]:
    plain = {"weight": np.ones((2, 3), np.float32), "bias": np.arange(3)}
    seeds = [pickle.dumps(plain, protocol) for protocol in (0, 2, 4, 5)]
    return [b"\0" + seed for seed in (*seeds, *(path.read_bytes() for path in sorted(ASSETS.glob("*.bin"))))]


PICKLE_TOKENS = (
    b"cos\nsystem\n",
    b"cnumpy\nndarray\n",
    b"\x93",
    b"\x8c\x02os",
    b"R",
    b"(",
    b"t",
    b".",
    b"\x81",
    b"b",
    b"\x95",
    b"\x8a\xff",
    b"I2147483647\n",
    b"\x96\xff\xff\xff\x7f\0\0\0\0",
    b"Q",
    b"cbuiltins\ntuple\n",
    b"cbuiltins\nbytearray\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
)


def _weights(name: str) -> Callable[[bytes, Path], object]:
    def read(folder: Path) -> object:
        names = weight_names(folder)
        return len(names), len(read_weights(folder))

    return _in_file(name, read)


def _safetensors_seeds() -> list[bytes]:
    tensors = {
        "weight": np.ones((2, 3), np.float32),
        "half": np.ones(2, np.float16),
        "ids": np.arange(4),
        "empty": np.zeros((0, 2), np.float32),
    }
    brain = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    return [b"\0" + save(tensors, {"format": "pt"}), b"\0" + len(brain).to_bytes(8, "little") + brain + bytes(8)]


def _index(folder: Path) -> object:
    (folder / "a.safetensors").write_bytes(save({"w": np.ones(2, np.float32)}))
    return len(weight_names(folder)), len(read_weights(folder))


def _tokenizer(data: bytes, folder: Path) -> object:
    kind, content = data[:1], data[1:]
    names = {
        b"\0": ("tokenizer.json",),
        b"\1": ("vocab.txt",),
        b"\2": ("tokenizer_config.json",),
        b"\3": ("vocab.json",),
        b"\4": ("merges.txt",),
    }
    for name in os.listdir(folder):
        (folder / name).unlink()
    name = names.get(kind, names[b"\0"])[0]
    if kind == b"\2":
        (folder / "vocab.txt").write_text(_VOCABULARY)
    if kind == b"\3":
        (folder / "merges.txt").write_text("#version: 0.2\na f\n")
    if kind == b"\4":
        (folder / "vocab.json").write_text(json.dumps(_BYTE_PAIRS))
    (folder / name).write_bytes(content)
    tokenizer = load_tokenizer(folder)
    ids, _ = encode_texts(tokenizer, TEXTS, None, 8)
    words = encode_words(tokenizer, [text.split() for text in TEXTS], 8)
    return len(ids[0]) > 2, len(words.input_ids[0]) > 2, tokenizer.get_vocab_size() > 9


_VOCABULARY = "\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)) + "\n"
_BYTE_PAIRS = {
    token: place for place, token in enumerate(("<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "f", "af", "Ġ", "i", "n", "e"))
}


def _tokenizer_seeds() -> list[bytes]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    seeds = []
    vocabulary = {token: place for place, token in enumerate(_VOCABULARY.split("\n")[:-1])}
    for model in (
        models.WordPiece(vocabulary, unk_token="[UNK]"),  # noqa: S106 - not a password
        models.BPE(_BYTE_PAIRS, [("a", "f")]),
        models.Unigram([("a", -1.0), ("[UNK]", -2.0)], 1),
    ):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace("a", "b"), normalizers.BertNormalizer(), normalizers.Prepend("_")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Metaspace()])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
        seeds.append(b"\0" + tokenizer.to_str().encode())
    config = {"do_lower_case": True, "strip_accents": None, "unk_token": "[UNK]", "cls_token": {"content": "[CLS]"}}
    return [
        *seeds,
        b"\1" + _VOCABULARY.encode(),
        b"\2" + json.dumps(config).encode(),
        b"\3" + json.dumps(_BYTE_PAIRS).encode(),
        b"\4#version: 0.2\na f\n",
    ]


def _config_seeds() -> list[bytes]:
    text = {
        "model_type": "bert",
        "vocab_size": 30,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
    }
    image = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}}
    texts = [{**text, "model_type": kind} for kind in ("bert", "roberta", "distilbert", "electra", "ernie", "xlm-roberta")]
    return [b"\0" + json.dumps(one).encode() for one in (*texts, image)]


def _config(folder: Path) -> object:
    return type(read_config(folder, pretrained=False)).__name__


def _verified(data: bytes, folder: Path) -> object:
    (folder / "b").write_bytes(b"")
    (folder / "manifest.json").write_bytes(data[1:])
    return len(verify_folder(folder).files)


_JSON = [inside(json_change, 1)] * 2
READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("settings-yaml", _yaml_seeds, _settings("yaml"), YAML_TOKENS),
        Reader("settings-json", _json_seeds, _settings("json"), JSON_TOKENS, _JSON),
        Reader("overrides", lambda: [b"\0train.epochs=2\na.b=[1, {x: y}]\nc=&a [1]\nd=2026-01-01"], _overrides, YAML_TOKENS),
        Reader("delimited", _delimited_seeds, _rows(DELIMITED), (b'"', b'""', b",", b"\t", b"\\", b"text,label\n", b'","')),
        Reader("json-lines", _jsonl_seeds, _rows(JSON_LINES), (*JSON_TOKENS, b'"text":', b'"label":')),
        Reader(
            "conll",
            _conll_seeds,
            _rows(CONLL),
            (b"\t", b" ", b"-DOCSTART-", b"# ", b"# global.columns = ", b"\x02", b"1-2\t", b"8.1\t"),
        ),
        Reader("parquet", _parquet_seeds, _rows(PARQUET), (b"PAR1", b"huggingface", b"ARROW:schema"), [inside(tail_change, 1)]),
        Reader(
            "image-list",
            _image_list_seeds,
            _image_list,
            (b"\t", b"cat.png", b"a dog.png", b"/etc/passwd", b"../", b"C:\\", b"path label"),
        ),
        Reader(
            "labels",
            lambda: [
                b"\0a\nb\n",
                b"\0010 a",
                b'\1["O", "B-X"]',
                b'\1{"labels": ["a"], "tag_scheme": "plain"}',
                b"\0020 a\n1 b\n",
            ],
            _label_list,
            (b"\n", b"O"),
            _JSON,
        ),
        Reader(
            "image",
            _image_seeds,
            _image,
            (b"IHDR", b"iCCP", b"eXIf", b"acTL", b"\xff\xc0", b"\xff\xda", b"Exif\0\0", b"II*\0"),
            [inside(png_change, 1)],
        ),
        Reader("manifest", _manifest_seeds, _verified, JSON_TOKENS, _JSON),
        Reader(
            "program",
            _program_seeds,
            _program,
            JSON_TOKENS,
            _JSON,
        ),
        Reader("signature", _signature_seeds, _in_file("signature.json", _signature), JSON_TOKENS, _JSON),
        Reader("signed-export", _signed_seeds, _signed, JSON_TOKENS, _JSON),
        Reader("pickles", _pickle_seeds, _weights("model.pdparams"), PICKLE_TOKENS, [inside(zip_change, 1)]),
        Reader(
            "safetensors",
            _safetensors_seeds,
            _weights("model.safetensors"),
            (b"BF16", b"F64", b"I8"),
            [inside(header_change, 1)] * 3,
        ),
        Reader(
            "weights-index",
            lambda: [b'\0{"weight_map": {"w": "a.safetensors"}}'],
            _in_file("model.safetensors.index.json", _index),
            JSON_TOKENS,
            _JSON,
        ),
        Reader("tokenizer", _tokenizer_seeds, _tokenizer, (*JSON_TOKENS, b"Replace", b"Regex", b"ByteLevel"), _JSON * 2),
        Reader("config", _config_seeds, _in_file("config.json", _config), JSON_TOKENS, _JSON * 2),
    )
}
