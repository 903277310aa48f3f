"""Text of others on its way to people: to terminals, logs and Markdown pages.

File names, labels, columns and rows are whatever their authors wrote. A terminal obeys control sequences in them, and Markdown
pages load what they link to; here they become text that is shown and does nothing.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

# Control characters but tab and line feed, and what turns the direction of text that follows it.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MARKS = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_{}[]()#+-.!|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)
_FENCE = re.compile("`{3,}")


def printable(text: str) -> str:
    """Text with each character that a terminal obeys, in place of showing it, as its escape: `\\x1b`, `\\u202e`."""
    return _OBEYED.sub(_escape, text)


def printable_json(value: Any, ensure_ascii: bool = False) -> str:
    """A value as one line of JSON, with JSON's escapes for characters that a terminal obeys."""
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=ensure_ascii))


def markdown_text(value: object) -> str:
    """Text on one line that Markdown shows as it is: no markup, no link, no image."""
    return " ".join(printable(str(value)).split()).translate(_MARKS).replace("://", ":\\/\\/")


def markdown_code(text: str) -> str:
    """A path or name on one line that Markdown shows as code, so that it can be copied."""
    line = " ".join(printable(text).split())
    return markdown_text(line) if "`" in line else f"`{line}`"


def markdown_block(text: str) -> str:
    """Lines of text that Markdown shows as they are."""
    longest = max(map(len, _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Metrics by split as a Markdown table."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    lines = ["| split | " + " | ".join(map(markdown_text, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for split, values in metrics.items():
        lines.append(f"| {split} | " + " | ".join(f"{values[name]:.4f}" if name in values else "" for name in names) + " |")
    return "\n".join(lines)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004
