"""What the rules of a tokenizer.json can make of a text, found before they are run.

A tokenizer's rules run inside a library that cannot be interrupted, and which ends the process when memory runs out. So they
are read here first: how many bytes they can make of one byte, whether a pattern's search has a bound, and which ids they add.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hubflow.errors import TokenizerError
from hubflow.schemas.library import library_settings

MAX_PIECES = 64
"""Of a template: special tokens and texts."""
MAX_AFFIX = 64
MAX_WORD = 10_000
MAX_PATTERN = 2_000
MAX_REPEATS = 2
"""Of one alternative of a pattern: its search takes a power of the text's length."""
MAX_DEPTH = 8
_ONE_CHARACTER = r"(?:\\[sdw]|[^\\\[\](){}.*+?^$|])(?:\+|\{(\d{1,3})(?:,\d{0,3})?\})?"
"""A pattern of one character, which may repeat."""
_TEMPLATES = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
_OTHER_PROCESSORS = ("ByteLevel",)

Growth = Callable[[dict[str, Any]], int]


def check_rules(values: dict[str, Any]) -> list[int]:
    """Refuse a tokenizer.json whose rules could take memory or time without bound.

    Args:
        values: of the file.

    Returns:
        The ids that its post-processor adds to texts.

    Raises:
        TokenizerError: naming the rule and the limit.
    """
    most = library_settings().limits.max_tokenizer_growth
    growth = _growth(values.get("normalizer"), "normalizer", "normalizers", _NORMALIZERS)
    growth *= _growth(values.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS)
    if growth > most:
        raise TokenizerError(
            f"its rules can make {_shown(growth)} bytes of one byte of text, more than limits.max_tokenizer_growth {most:,}"
        )
    _check_model(values.get("model"))
    return _added_ids(values.get("post_processor"))


def _shown(growth: int) -> str:
    return f"{growth:,}" if growth < 10**12 else "more than 10¹²"


def _growth(rule: Any, part: str, inner: str, known: dict[str, Growth]) -> int:
    """Bytes that a part makes of one byte, at most."""
    growth = 1
    for one in _flat(rule, part, inner):
        kind = one.get("type")
        if kind not in known:
            raise TokenizerError(f"{part} {kind!r:.100} is not known; known: {', '.join(sorted(known))} and Sequence")
        growth *= known[kind](one)
    return growth


def _flat(rule: Any, part: str, inner: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The rules of a part, sequences taken apart."""
    if rule is None:
        return
    if not isinstance(rule, dict):
        raise TokenizerError(f"{part}: expected an object with a type, found a {type(rule).__name__}")
    if rule.get("type") != "Sequence":
        yield rule
        return
    if depth == MAX_DEPTH or not isinstance(rule.get(inner), list):
        raise TokenizerError(f"{part}: a Sequence without {inner}, or nested deeper than {MAX_DEPTH}")
    for one in rule[inner]:
        yield from _flat(one, part, inner, depth + 1)


def _replaced(rule: dict[str, Any]) -> int:
    pattern, content = _pattern(rule), len(_text(rule, "content").encode())
    if "String" in rule["pattern"]:
        return max(1, math.ceil(content / len(pattern.encode())))
    repeated = re.fullmatch(_ONE_CHARACTER, pattern)
    if repeated is None:  # it may match what has no length
        return 1 + content
    return max(1, math.ceil(content / max(1, int(repeated[1] or 1))))


def _prepended(rule: dict[str, Any]) -> int:
    return 1 + len(_text(rule, "prepend").encode())


def _split(rule: dict[str, Any]) -> int:
    _pattern(rule)
    return 1


def _pattern(rule: dict[str, Any]) -> str:
    pattern = rule.get("pattern")
    if not isinstance(pattern, dict) or len(pattern) != 1 or next(iter(pattern)) not in ("String", "Regex"):
        raise TokenizerError(f"{rule['type']}: expected a pattern with String or Regex")
    kind, found = next(iter(pattern.items()))
    if not isinstance(found, str) or not found:
        raise TokenizerError(f"{rule['type']}: the pattern is empty, or no text")
    if kind == "Regex" and (fault := pattern_fault(found)):
        raise TokenizerError(
            f"{rule['type']}: the pattern {found!r:.100} has {fault}; its search could take time without bound"
        )
    return found


def _text(rule: dict[str, Any], name: str) -> str:
    found = rule.get(name)
    if not isinstance(found, str):
        raise TokenizerError(f"{rule['type']}: expected a text as its {name}")
    return found


def _charsmap(rule: dict[str, Any]) -> int:
    """Of SentencePiece's table of characters: the longest text that one is replaced by."""
    try:
        table = base64.b64decode(_text(rule, "precompiled_charsmap"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenizerError(f"Precompiled: its table is not base64 ({error})") from None
    trie = int.from_bytes(table[:4], "little")
    if len(table) < 4 or trie % 4 or not 0 < trie <= len(table) - 4:  # noqa: PLR2004 - bytes of a number
        raise TokenizerError("Precompiled: its table is cut short")
    return max(1, *map(len, table[4 + trie :].split(b"\0")))


def pattern_fault(pattern: str) -> str | None:
    """What makes the search for a regular expression take more than a small power of the text's length.

    Args:
        pattern: in the syntax of Oniguruma.

    Returns:
        What it has, as a noun; None for a pattern that may be searched for.
    """
    if len(pattern) > MAX_PATTERN:
        return f"more than {MAX_PATTERN} characters"
    position = depth = repeats = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            if pattern[position + 1 : position + 2] in "123456789kg":
                return "a reference to what it found"
            position = _after_escape(pattern, position)
        elif character == "[":
            position = _after_class(pattern, position)
        else:
            depth += (character == "(") - (character == ")")
            position += 1
            if character == "|" and depth == 0:
                repeats = 0
            if character in ("(", "|"):
                position += pattern[position : position + 1] == "?"  # of a group: no quantifier
                continue
        times, position = _after_quantifier(pattern, position)
        if times > 1 and character == ")":
            return "a group that repeats"
        repeats += times > 1
        if repeats > MAX_REPEATS:
            return f"more than {MAX_REPEATS} repeats in one alternative"
    return None


def _after_escape(pattern: str, position: int) -> int:
    """Where an escaped character, class or property ends."""
    position += 2
    if pattern[position - 1 : position] in ("p", "P", "x", "u") and pattern[position : position + 1] == "{":
        end = pattern.find("}", position)
        return len(pattern) if end < 0 else end + 1
    return position


def _after_class(pattern: str, position: int) -> int:
    """Where a class of characters ends, which may have classes in it."""
    depth = 0
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 2
            continue
        depth += (pattern[position] == "[") - (pattern[position] == "]")
        position += 1
        if depth == 0:
            break
    return position


def _after_quantifier(pattern: str, position: int) -> tuple[float, int]:
    """How often what stands before `place` is found at most, and where its quantifiers end."""
    times = 1.0
    while position < len(pattern):
        character = pattern[position]
        if character in "*+":
            # After another quantifier a plus makes it possessive, or repeats it: either way it is counted once.
            times = math.inf
        elif character == "{":
            end = pattern.find("}", position)
            if end < 0:
                break
            last = pattern[position + 1 : end].rpartition(",")[2]
            times = max(times, math.inf if not last.isdigit() else float(last[:9]))
            position = end
        elif character != "?":
            break
        position += 1
    return times, position


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise TokenizerError("model: expected an object with a vocabulary")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        affix = model.get(name)
        if affix is not None and (not isinstance(affix, str) or len(affix) > MAX_AFFIX):
            raise TokenizerError(f"model: {name} is {affix!r:.100}; expected a text of at most {MAX_AFFIX} characters")
    longest = model.get("max_input_chars_per_word")
    if longest is not None and (type(longest) is not int or not 0 <= longest <= MAX_WORD):
        raise TokenizerError(f"model: max_input_chars_per_word is {longest!r:.100}; expected a whole number up to {MAX_WORD:,}")


def _added_ids(rule: Any) -> list[int]:
    """The ids that the post-processor adds, once it repeats no text."""
    templates, ids = 0, []
    for one in _flat(rule, "post_processor", "processors"):
        kind = one.get("type")
        if kind in _TEMPLATES:
            templates += 1
            ids += _template_ids(one) if kind == "TemplateProcessing" else [_pair_id(one.get(end)) for end in ("sep", "cls")]
        elif kind not in _OTHER_PROCESSORS:
            known = ", ".join((*_TEMPLATES, *_OTHER_PROCESSORS))
            raise TokenizerError(f"post_processor {kind!r:.100} is not known; known: {known} and Sequence")
    if templates > 1:
        raise TokenizerError(f"post_processor: {templates} templates, one inside the other; expected one")
    return ids


def _template_ids(rule: dict[str, Any]) -> list[int]:
    for name in ("single", "pair"):
        pieces = rule.get(name, [])
        if not isinstance(pieces, list) or len(pieces) > MAX_PIECES:
            raise TokenizerError(f"post_processor: expected a list of at most {MAX_PIECES} pieces as {name}")
        texts = [piece["Sequence"].get("id") for piece in pieces if _is_sequence(piece)]
        if len(set(texts)) != len(texts):
            raise TokenizerError(f"post_processor: the template {name} repeats a text; expected each once")
    special = rule.get("special_tokens", {})
    if not isinstance(special, dict):
        raise TokenizerError("post_processor: expected special_tokens by name")
    return list(_ids_of(special.values()))


def _is_sequence(piece: Any) -> bool:
    return isinstance(piece, dict) and isinstance(piece.get("Sequence"), dict)


def _ids_of(tokens: Iterable[Any]) -> Iterator[int]:
    for token in tokens:
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list) or len(ids) > MAX_PIECES or not all(type(one) is int for one in ids):
            raise TokenizerError(f"post_processor: expected at most {MAX_PIECES} ids of each special token")
        yield from ids


def _pair_id(pair: Any) -> int:
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[1]) is not int:  # noqa: PLR2004 - of a pair
        raise TokenizerError("post_processor: expected a special token as its text and id")
    return int(pair[1])


_NORMALIZERS: dict[str, Growth] = {
    "BertNormalizer": lambda _rule: 8,  # spaces around a character, accents apart, lower case
    "ByteLevel": lambda _rule: 2,
    "Lowercase": lambda _rule: 2,
    "NFC": lambda _rule: 3,
    "NFD": lambda _rule: 3,
    "NFKC": lambda _rule: 11,
    "NFKD": lambda _rule: 11,
    "Nmt": lambda _rule: 1,
    "Precompiled": _charsmap,
    "Prepend": _prepended,
    "Replace": _replaced,
    "Strip": lambda _rule: 1,
    "StripAccents": lambda _rule: 1,
}
_PRE_TOKENIZERS: dict[str, Growth] = {
    "BertPreTokenizer": lambda _rule: 1,
    "ByteLevel": lambda _rule: 3,  # two bytes for one, and a space before
    "CharDelimiterSplit": lambda _rule: 1,
    "Digits": lambda _rule: 1,
    "FixedLength": lambda _rule: 1,
    "Metaspace": lambda _rule: 4,  # a sign of three bytes before each word
    "Punctuation": lambda _rule: 1,
    "Split": _split,
    "UnicodeScripts": lambda _rule: 1,
    "Whitespace": lambda _rule: 1,
    "WhitespaceSplit": lambda _rule: 1,
}
"""How many bytes each makes of one byte, by its type."""
