"""Audit the packages that deployments install, and write a software bill of materials (CycloneDX) of them.

    python deploy/check_packages.py --sbom hubflow.cdx.json

Run it by the Python that the tools of `.ci/requirements.lock` are installed for. The exit code is 1 when a package has a known
vulnerability, when some packages could not be audited, or when the bill leaves one out. Where no advisory at all can be read,
the last line says that nothing was audited, and the exit code is 1 if `HUBFLOW_AUDIT=required` is set.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
LOCK = "deploy/requirements.lock"
"""What the images install: the core, which is requirements.lock, and the extras for production."""
IGNORED: dict[str, str] = {}
"""Advisories that are accepted, each with the reason. One whose fix is released cannot be accepted."""
REQUIRED = "HUBFLOW_AUDIT"
_BILL = ("--pyproject", PROJECT / "pyproject.toml", "--output-reproducible", "--output-format", "JSON")
_AUDIT = (
    *("--require-hashes", "--disable-pip"),  # what is pinned, as it is: nothing is resolved or downloaded
    *("--vulnerability-service", "pypi", "--timeout", "15", "--format", "json", "--progress-spinner", "off"),
)


def pinned(lock: str) -> set[tuple[str, str]]:
    """Name and version of each package that a lock pins."""
    return set(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]+\])?==([^ ;\\]+)", lock, re.MULTILINE))


def missing(bill: Mapping[str, Any], lock: str) -> list[str]:
    """What a lock pins and a bill of materials leaves out, or lists without a hash."""
    listed = {
        (component["name"], component["version"])
        for component in bill["components"]
        if any(reference.get("hashes") for reference in component["externalReferences"])
    }
    left_out = sorted(pinned(lock) - listed)
    return [f"{name} {version}: not in the bill of materials with its hashes" for name, version in left_out]


def faults(report: Mapping[str, Any], ignored: Mapping[str, str]) -> tuple[list[str], bool]:
    """What a report of pip-audit finds wrong, and whether it could read any advisories.

    pip-audit itself succeeds when it could look up no package at all.
    """
    found, skipped = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["skip_reason"])
            continue
        for advisory in package["vulns"]:
            names, fixes = {advisory["id"], *advisory["aliases"]}, advisory["fix_versions"]
            if not fixes and names & ignored.keys():
                continue
            remedy = f"take {' or '.join(fixes)}" if fixes else "no fix is released: leave it out, or accept it with a reason"
            found.append(f"{package['name']} {package['version']}: {advisory['id']}; {remedy}")
    is_audited = len(skipped) < len(report["dependencies"])
    return [*found, *(skipped if is_audited else [])], is_audited


def main() -> int:
    """Write the bill, audit the lock, and report what is wrong; the exit code."""
    parser = argparse.ArgumentParser(description="Audit the locked packages, and write a bill of materials of them.")
    parser.add_argument("--sbom", type=Path, required=True, help="where the bill of materials is written, as JSON")
    path, lock = parser.parse_args().sbom, PROJECT / LOCK
    _run("cyclonedx_py", "requirements", lock, *_BILL, "--output-file", path).check_returncode()
    wrong = missing(json.loads(path.read_text(encoding="utf-8")), lock.read_text(encoding="utf-8"))
    audit = _run("pip_audit", "--requirement", lock, *_AUDIT)
    try:
        found, is_audited = faults(json.loads(audit.stdout), IGNORED)
    except ValueError:  # it ends without a report when the network does not answer
        found, is_audited = [], False
        sys.stderr.write(audit.stderr[-2000:])
    wrong += found
    if not is_audited:
        wrong += [f"{REQUIRED} is `required`"] if os.environ.get(REQUIRED) == "required" else []
        sys.stderr.write("NOT AUDITED: no advisory could be read, so known vulnerabilities are not excluded\n")
    sys.stderr.writelines(f"{one}\n" for one in wrong)
    return 1 if wrong else 0


def _run(tool: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # no input


if __name__ == "__main__":
    sys.exit(main())
