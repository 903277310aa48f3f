"""Loads a module's tokenizer from its own files and encodes texts and words with it.

TOKENIZERS_PARALLELISM is left as it is: when unset, the library encodes in parallel and stops doing so after a fork.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from hubflow.errors import ModuleError, TokenizerError, join_limited
from hubflow.files import held_open
from hubflow.modules.download import CONFIG
from hubflow.modules.networks.text import FAMILIES
from hubflow.modules.registry import parse_json, read_bounded, read_settings
from hubflow.modules.tokenizer_rules import check_rules
from hubflow.schemas.library import library_settings

LOOKED_FOR = "tokenizer.json, vocab.txt, or vocab.json with merges.txt"
PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>")
_BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 1024, 500_000  # an encoding takes far more memory than its ids
_PANICS = "pyo3_runtime"
"""Module of the exceptions, no `Exception`s, that failures inside the library are raised as."""
_TRIED = ("", "a", "Hello world 12 don't", "é ß İ ﬁ ﷺ", "中国 日本語 한국어 ไทย", "😀👍🏽 \u200b\ufffd\x00\x01\r\n\t")
_MAX_IDS = 1 << 31
_TRUNCATION = threading.Lock()  # truncation is a state of the tokenizer, which threads may share


class EncodedWords(NamedTuple):
    """Rows of words as pieces; `first_piece` holds for each word the position of its first piece, -1 where it has none."""

    input_ids: list[np.ndarray]
    first_piece: list[np.ndarray]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a module folder, without padding or truncation, whatever its files say of them.

    Raises:
        TokenizerError: when there are no files of a known kind, or they cannot be read; when their rules could take memory or
            time without bound; or when they have ids beyond the module's embedding.
    """
    with _refused_at(folder):
        tokenizer, added_ids = _load(folder)
        return _checked(tokenizer, added_ids, _embedding_rows(folder))


def parse_tokenizer(content: bytes, path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, without padding or truncation.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        TokenizerError: as `load_tokenizer`.
    """
    with _refused_at(path):
        return _checked(*_parsed(content, path), _MAX_IDS)


@contextmanager
def _refused_at(path: Path) -> Iterator[None]:
    """Have what is wrong with a tokenizer raised as an error that names its file or folder."""
    try:
        with _explained():
            yield
    except ModuleError as error:
        fault = str(error)
        raise TokenizerError(fault if fault.startswith(str(path)) else f"{path}: {fault}") from error
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"{path}: its tokenizer files cannot be read ({error}); get them again") from error


def _parsed(content: bytes, path: Path) -> tuple[Tokenizer, list[int]]:
    values = parse_json(content, path)
    if not isinstance(values, dict):
        raise TokenizerError(f"{path}: holds a {type(values).__name__}; expected an object")
    added_ids = check_rules(values)
    return Tokenizer.from_buffer(content), added_ids


def _checked(tokenizer: Tokenizer, added_ids: Sequence[int], rows: int) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _require_ids(tokenizer, added_ids, rows)
    _try(tokenizer)
    return tokenizer


@contextmanager
def _explained() -> Iterator[None]:
    """Have a failure inside the library raised as an error that ends the work, and not the process."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != _PANICS:
            raise
        raise TokenizerError(
            f"the tokenizer's library failed ({str(error)[:200]}); its files are damaged, or a pattern of them takes too long "
            "on this text: get them again"
        ) from None


def _require_ids(tokenizer: Tokenizer, added_ids: Sequence[int], rows: int) -> None:
    """Refuse ids that the module's embedding has no row for."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    vocabulary.pop("", None)  # of an empty line, which no text gives
    beyond = {token: number for token, number in vocabulary.items() if number >= rows}
    ids = [*beyond.values(), *(one for one in added_ids if not 0 <= one < rows)]
    if ids:
        named = join_limited(f"{token!r:.50} {number}" for token, number in beyond.items()) or join_limited(map(str, ids))
        raise TokenizerError(
            f"{len(ids)} id(s) that the module has no embedding for: {named}; its vocab_size is {rows:,}. Get tokenizer and "
            "config.json of the same module"
        )


def _embedding_rows(folder: Path) -> int:
    """How many ids the module of the folder has; of an export, as many as an input can hold."""
    if not (folder / CONFIG).is_file():
        return _MAX_IDS
    config = read_settings(folder / CONFIG)
    family = FAMILIES.get(str(config.get("model_type")))
    rows = config.get("vocab_size", family.defaults["vocab_size"] if family else _MAX_IDS)
    return int(rows) if isinstance(rows, int | float) and 0 <= rows <= _MAX_IDS else _MAX_IDS


def _try(tokenizer: Tokenizer) -> None:
    """Encode a few texts, so that damage is found at once; a vocabulary without an unknown token fails where one is met."""
    for text in _TRIED:
        with suppress(Exception):
            tokenizer.encode(text)
            tokenizer.encode(text, text)
            tokenizer.encode([text], is_pretokenized=True)


def pad_token_id(tokenizer: Tokenizer) -> int:
    """Id of the padding token.

    Raises:
        TokenizerError: when the vocabulary has none.
    """
    for token in PAD_TOKENS:
        with _explained():
            token_id = tokenizer.token_to_id(token)
        if token_id is not None:
            return token_id
    raise TokenizerError(f"the tokenizer has no padding token; expected one of {', '.join(PAD_TOKENS)} in its vocabulary")


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_seq_len: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Encode texts, or pairs of texts, with their special tokens.

    Args:
        tokenizer: of `load_tokenizer`.
        texts: first texts.
        pairs: second texts, as many; None for single texts.
        max_seq_len: longest row in tokens, special tokens included; of a pair the longer text is cut first.

    Returns:
        input ids and segment ids, int32, one array `[tokens]` a row.

    Raises:
        TokenizerError: when there are not as many pairs as texts, or `max_seq_len` leaves no room for a token.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise TokenizerError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each")
    rows: Sequence[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
    input_ids, segment_ids = [], []
    for encoding in _encode(tokenizer, rows, max_seq_len, is_pair=pairs is not None):
        input_ids.append(np.array(encoding.ids, np.int32))
        segment_ids.append(np.array(encoding.type_ids, np.int32))
    return input_ids, segment_ids


def encode_words(tokenizer: Tokenizer, token_lists: Sequence[Sequence[str]], max_seq_len: int) -> EncodedWords:
    """Encode rows of words, with the place of each word's first piece, which stands for the word.

    A word may have no piece: when the row is cut before it, or when nothing is left of it (a control character). Its
    `first_piece` is -1, so that predictions can still be given for every word.

    Returns:
        input ids `[tokens]` int32 and first pieces `[words]` int32, one array of each a row.

    Raises:
        TokenizerError: when `max_seq_len` leaves no room for a token.
    """
    rows = _with_spaces(tokenizer, token_lists)
    encoded = EncodedWords([], [])
    for row, encoding in enumerate(_encode(tokenizer, rows, max_seq_len, words=True)):
        encoded.input_ids.append(np.array(encoding.ids, np.int32))
        encoded.first_piece.append(_first_pieces(encoding, len(rows[row])))
    return encoded


class WordWindows(NamedTuple):
    """Rows of words as windows of pieces, which overlap where a row is longer than a window.

    Attributes:
        input_ids: of each window, row after row `[tokens]`.
        windows: of each row, which window each word is read in `[words]`; -1 where it has no piece, or was cut off.
        pieces: of each row, the position of each word's first piece in that window `[words]`.
        num_cut: how many words of each row were cut off `[rows]`.
    """

    input_ids: list[np.ndarray]
    windows: list[np.ndarray]
    pieces: list[np.ndarray]
    num_cut: np.ndarray


def encode_word_windows(
    tokenizer: Tokenizer, token_lists: Sequence[Sequence[str]], max_seq_len: int, stride: int | None
) -> WordWindows:
    """Encode rows of words; those longer than `max_seq_len` are cut, or read in windows that overlap.

    A window begins with a word, and has at least `stride` pieces of the one before it. A word that is in several windows is
    read in that where it is furthest from a cut end, the first of equal ones. A word is cut off where its first piece is.

    Args:
        tokenizer: of `load_tokenizer`.
        token_lists: words of each row.
        max_seq_len: longest window in tokens, special ones included.
        stride: fewest pieces that two windows share; None cuts rows.

    Raises:
        TokenizerError: when `max_seq_len` leaves no room for a token, or for more than `stride` of them.
    """
    encoded = encode_words(tokenizer, token_lists, max_seq_len)
    windows = [np.where(pieces >= 0, row, -1) for row, pieces in enumerate(encoded.first_piece)]
    found = WordWindows(encoded.input_ids, windows, encoded.first_piece, np.zeros(len(token_lists), np.int64))
    room = max_seq_len - tokenizer.num_special_tokens_to_add(False)
    if stride is not None and stride >= room:
        raise TokenizerError(
            f"stride {stride} must be below the {room} tokens that max_seq_len {max_seq_len} leaves; give less"
        )
    full = [row for row, ids in enumerate(encoded.input_ids) if len(ids) >= max_seq_len]
    for row, encoding in zip(full, _whole_rows(tokenizer, [token_lists[row] for row in full]), strict=True):
        if len(encoding) <= max_seq_len:
            continue
        if stride is None:
            seen = np.flatnonzero(encoded.first_piece[row] >= 0)
            found.num_cut[row] = len(token_lists[row]) - (int(seen[-1]) + 1 if len(seen) else 0)
            continue
        first, rest, which, places = _windows(encoding, len(token_lists[row]), room, stride)
        found.input_ids[row] = first
        # The row keeps its own window as the first; the others come after those of all rows.
        numbers = np.array([row, *range(len(found.input_ids), len(found.input_ids) + len(rest))])
        found.input_ids.extend(rest)
        found.windows[row] = np.where(which >= 0, numbers[which], -1)
        found.pieces[row] = places
    return found


def _windows(
    encoding: Encoding, num_words: int, room: int, stride: int
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Windows of one row, the first and the others; of each word which one it is read in, and where it begins there."""
    ids, words = np.array(encoding.ids, np.int32), np.array([-1 if word is None else word for word in encoding.word_ids])
    real = np.flatnonzero(words >= 0)
    before, after = ids[: real[0]], ids[real[-1] + 1 :]
    ids, words = ids[real[0] : real[-1] + 1], words[real[0] : real[-1] + 1]
    starts = np.flatnonzero(np.diff(words, prepend=-1))  # first pieces, in the words' order
    begins = [0]
    while begins[-1] + room < len(ids):
        wanted = begins[-1] + room - stride
        of_word = starts[np.searchsorted(starts, wanted, side="right") - 1]
        to_end = starts[starts >= len(ids) - room][:1]  # with as much context as fits
        later = starts[starts > begins[-1]]
        if len(to_end) and begins[-1] < to_end[0] <= of_word:
            begins.append(int(to_end[0]))
        elif of_word > begins[-1]:
            begins.append(int(of_word))
        elif len(later):
            begins.append(int(later[0]))  # after a word that fills a window
        else:
            break
    best, which, places = np.full(len(starts), -1), np.full(num_words, -1), np.full(num_words, -1)
    for window, begin in enumerate(begins):
        end = min(begin + room, len(ids))
        left = starts - begin if begin else np.full(len(starts), len(ids))
        right = end - 1 - starts if end < len(ids) else np.full(len(starts), len(ids))
        context = np.where((starts >= begin) & (starts < end), np.minimum(left, right), -1)
        better = context > best
        best = np.where(better, context, best)
        which[words[starts[better]]] = window
        places[words[starts[better]]] = starts[better] - begin + len(before)
    parts = [np.concatenate([before, ids[begin : begin + room], after]).astype(np.int32) for begin in begins]
    return parts[0], parts[1:], which, places


def _whole_rows(tokenizer: Tokenizer, token_lists: Sequence[Sequence[str]]) -> Iterator[Encoding]:
    """Encodings of rows of words of which nothing is cut."""
    for rows in _batches(_with_spaces(tokenizer, token_lists)):
        with _TRUNCATION, _encoding():  # another thread may have truncation on
            encodings = tokenizer.encode_batch(rows, is_pretokenized=True)
        yield from encodings


def full_lengths(tokenizer: Tokenizer, rows: Sequence[Any], words: bool = False) -> np.ndarray:
    """Tokens `[rows]` that texts, pairs or lists of words have when nothing is cut, special ones included, int64."""
    if words:
        rows = _with_spaces(tokenizer, rows)
    lengths: list[int] = []
    for batch in _batches(rows):
        with _TRUNCATION, _encoding():  # another thread may have truncation on
            encodings = tokenizer.encode_batch_fast(batch, is_pretokenized=words)
        lengths += [len(encoding) for encoding in encodings]
    return np.array(lengths, np.int64)


def _encode(
    tokenizer: Tokenizer, rows: Sequence[Any], max_seq_len: int, is_pair: bool = False, words: bool = False
) -> Iterator[Encoding]:
    for batch in _batches(rows):
        with _truncated(tokenizer, max_seq_len, is_pair), _encoding():
            encodings = tokenizer.encode_batch(batch, is_pretokenized=words)
        yield from encodings


def _batches(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """Texts, pairs or lists of words in batches of a bounded number of characters; a longer row is a batch of its own."""
    batch: list[Any] = []
    characters = 0
    for row in rows:
        length = len(row) if isinstance(row, str) else sum(map(len, row))
        if batch and (len(batch) == _ROWS_AT_ONCE or characters + length > _CHARACTERS_AT_ONCE):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += length
    if batch:
        yield batch


@contextmanager
def _encoding() -> Iterator[None]:
    """Raise what the library raises of a text as a TokenizerError."""
    try:
        with _explained():
            yield
    except (TokenizerError, MemoryError):
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"a text cannot be encoded ({str(error)[:200]}); the tokenizer's files are incomplete") from error


@contextmanager
def _truncated(tokenizer: Tokenizer, max_seq_len: int, is_pair: bool) -> Iterator[None]:
    with _explained():
        special = tokenizer.num_special_tokens_to_add(is_pair)
    if max_seq_len <= special:
        raise TokenizerError(f"max_seq_len {max_seq_len} leaves no room beside {special} special tokens; give more")
    with _TRUNCATION:
        tokenizer.enable_truncation(max_seq_len, strategy="longest_first")
        try:
            yield
        finally:
            tokenizer.no_truncation()


def _first_pieces(encoding: Encoding, num_words: int) -> np.ndarray:
    first_piece = np.full(num_words, -1, np.int32)
    for position, word in enumerate(encoding.word_ids):
        if word is not None and first_piece[word] < 0:
            first_piece[word] = position
    return first_piece


def _with_spaces(tokenizer: Tokenizer, token_lists: Sequence[Sequence[str]]) -> list[list[str]]:
    """Byte-level vocabularies know a word by the space before it, which words that come apart have lost."""
    byte_level = isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)
    return [[f" {word}" if byte_level else word for word in words] for words in token_lists]


def _load(folder: Path) -> tuple[Tokenizer, list[int]]:
    """The tokenizer, and the ids that it adds to texts beside those of its vocabulary."""
    if (folder / "tokenizer.json").is_file():
        return _parsed(_read(folder / "tokenizer.json"), folder / "tokenizer.json")
    if (folder / "vocab.txt").is_file():
        return _wordpiece(folder / "vocab.txt", _tokenizer_config(folder)), []
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _byte_level_bpe(folder, _tokenizer_config(folder)), []
    sentencepiece = sorted(path.name for path in folder.glob("*.model"))
    if sentencepiece:
        raise TokenizerError(
            f"{folder}: has only the SentencePiece model {join_limited(sentencepiece)}, which is not read; "
            "add the tokenizer.json that the module's fast tokenizer saves"
        )
    raise TokenizerError(f"{folder}: no tokenizer; looked for {LOOKED_FOR}")


def _read(path: Path) -> bytes:
    return read_bounded(path, library_settings().limits.max_tokenizer_bytes, "limits.max_tokenizer_bytes")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config |= read_settings(folder / name)
    return config


def _special_tokens(config: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, str]:
    """Special tokens by role; a configuration gives them as text, or as an object with `content`."""
    tokens = {}
    for role, default in defaults.items():
        token = config.get(f"{role}_token") or default
        token = token.get("content") if isinstance(token, dict) else token
        if not isinstance(token, str) or not token:
            raise TokenizerError(f"{role}_token is {token!r:.100}; expected a text, or an object with its content")
        tokens[role] = token
    return tokens


def _wordpiece(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """BERT's tokenizer. Lines are read here: the library strips white space that some vocabularies have as a token."""
    # As text files are read: a line may end as Windows ends it.
    lines = _read(path).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    vocab = {token: index for index, token in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    special = _special_tokens(config, _BERT_TOKENS)
    lacking = [special[role] for role in ("unk", "cls", "sep") if special[role] not in vocab]
    if lacking:
        raise TokenizerError(
            f"{path}: lacks the special tokens {join_limited(lacking)}; expected BERT's vocabulary, one token a line"
        )
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=special["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([token for token in special.values() if token in vocab])
    cls, sep = special["cls"], special["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _byte_level_bpe(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """RoBERTa's tokenizer."""
    for name in ("vocab.json", "merges.txt"):
        _read(folder / name)  # which refuses links and sizes
    with held_open(folder / "vocab.json") as vocab, held_open(folder / "merges.txt") as merges:
        tokenizer = Tokenizer(models.BPE.from_file(vocab, merges))
    special = _special_tokens(config, _ROBERTA_TOKENS)
    ids = {role: tokenizer.token_to_id(token) for role, token in special.items()}
    if ids["cls"] is None or ids["sep"] is None:
        raise TokenizerError(
            f"{folder / 'vocab.json'}: lacks {special['cls']} or {special['sep']}; expected RoBERTa's vocabulary"
        )
    add_prefix_space = bool(config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=role == "mask", normalized=False) for role, token in special.items() if ids[role] is not None]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (special["sep"], ids["sep"]), (special["cls"], ids["cls"]), trim_offsets=True, add_prefix_space=add_prefix_space
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
