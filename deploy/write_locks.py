"""Write requirements.lock and deploy/requirements.lock from pyproject.toml, and .ci/requirements.lock from .ci/requirements.in.

`--upgrade` takes the newest versions.

pip 23, which Python 3.11 ships, looks for a pin of `sqlalchemy[asyncio]` and for one of `sqlalchemy` where packages need both,
and refuses `--require-hashes` when one of the two is missing. uv writes one of them, so the other is added here.
"""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LOCKS = {
    "requirements.lock": ("pyproject.toml",),
    "deploy/requirements.lock": ("pyproject.toml", "--extra", "hub", "--extra", "s3", "--extra", "sweep"),
    ".ci/requirements.lock": (".ci/requirements.in", "--python-version", "3.11"),
}
"""What each lock file is made from."""
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)\[[^\]]+\](?===)")


def with_plain_pins(lock: str) -> str:
    """A lock with a pin without extras before each pin with extras."""
    entries = re.split(r"\n(?=\S)", lock.rstrip("\n"))  # the hashes of a pin are indented
    names = {entry.partition("==")[0] for entry in entries}
    lines = []
    for entry in entries:
        pin = PIN.match(entry)
        if pin and pin["name"] not in names:
            lines.append(PIN.sub(pin["name"], entry))
        lines.append(entry)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write all of them."""
    options = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--no-strip-extras", "--quiet"]
    for lock, sources in LOCKS.items():
        command = ["uv", "pip", "compile", *options, *sources, *sys.argv[1:], "--output-file", lock]
        subprocess.run(command, cwd=PROJECT, check=True)  # noqa: S603  # the arguments are this file's user's
        path = PROJECT / lock
        path.write_text(with_plain_pins(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
