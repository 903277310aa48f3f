"""What is deployed: a Dockerfile that hadolint takes, units that systemd takes, packages that are those of the project."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
EXTRAS = ("hub", "s3", "sweep")


def pinned() -> dict[str, str]:
    """Version of each package that is installed in the images."""
    lock = (DEPLOY / "requirements.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]+\])?==([^ ;\\]+)", lock, re.MULTILINE))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()}
    assert copied == allowed
    assert all((PROJECT / source).exists() for source in copied)


def test_images_hold_the_projects_packages_in_the_versions_that_it_asks_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    versions = pinned()
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert re.findall(r"paddlepaddle-gpu==(\S+)", DOCKERFILE) == [versions["paddlepaddle"]]


def test_images_run_as_a_user_of_their_own() -> None:
    targets = DOCKERFILE.split("\nFROM ")[2:]
    assert [target.split(" AS ")[1].split()[0] for target in targets] == ["gpu", "cpu"]
    assert all("\nUSER 10001\n" in target for target in targets)


def test_images_start_the_command_that_they_are_given_and_a_worker_without_one() -> None:
    assert "\nENTRYPOINT" not in DOCKERFILE  # Docker and Kubernetes pools give `prefect flow-run execute`
    commands = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert [json.loads(command) for command in commands] == [["prefect", "worker", "start", "--pool", "hubflow"]] * 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("name", ["prefect-server.service", "hubflow-worker.service"])
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    unit = (DEPLOY / name).read_text(encoding="utf-8")
    command = unit.replace("/opt/hubflow/.venv", sys.prefix).replace("User=hubflow", "User=root")  # which are here
    assert command != unit
    (tmp_path / name).write_text(command, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, about) == (0, [])


@pytest.mark.parametrize("lock", [PROJECT / "requirements.lock", DEPLOY / "requirements.lock"])
def test_every_package_that_is_pinned_with_extras_is_pinned_without_them_too(lock: Path) -> None:
    pins = re.findall(r"^([a-z0-9._-]+)(\[[^\]]+\])?==([^ ;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    plain = {(name, version) for name, extras, version in pins if not extras}
    with_extras = {(name, version) for name, extras, version in pins if extras}
    assert ("sqlalchemy", dict(with_extras)["sqlalchemy"]) in with_extras  # else pip 23 refuses the lock
    assert with_extras <= plain


def check_packages() -> Any:
    spec = importlib.util.spec_from_file_location("check_packages", DEPLOY / "check_packages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def advisory(*fixes: str) -> dict[str, Any]:
    """As pip-audit reports one."""
    return {"id": "PYSEC-2018-28", "aliases": ["CVE-2018-18074"], "fix_versions": list(fixes), "description": "a leak"}


def package(*advisories: dict[str, Any]) -> dict[str, Any]:
    return {"name": "requests", "version": "2.19.0", "vulns": list(advisories)}


SKIPPED = {"name": "requests", "skip_reason": "Dependency not found on PyPI and could not be audited: requests (2.19.0)"}


@pytest.mark.parametrize(
    ("packages", "ignored", "wrong", "is_audited"),
    [
        ([package()], {}, [], True),
        ([package(advisory("2.20.0"))], {}, ["requests 2.19.0: PYSEC-2018-28; take 2.20.0"], True),
        ([package(advisory("2.20.0"))], {"CVE-2018-18074": "x"}, ["requests 2.19.0: PYSEC-2018-28; take 2.20.0"], True),
        ([package(advisory())], {}, ["requests 2.19.0: PYSEC-2018-28; no fix is released"], True),
        ([package(advisory())], {"CVE-2018-18074": "not reachable from here"}, [], True),
        ([SKIPPED, package()], {}, ["Dependency not found"], True),
        ([SKIPPED], {}, [], False),  # which pip-audit calls a success
        ([], {}, [], False),
    ],
)
def test_a_known_vulnerability_is_a_fault_and_an_audit_of_nothing_is_none(
    packages: list[dict[str, Any]], ignored: dict[str, str], wrong: list[str], is_audited: bool
) -> None:
    found, audited = check_packages().faults({"dependencies": packages}, ignored)
    assert audited is is_audited
    assert len(found) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(found, wrong, strict=True))


def test_a_bill_of_materials_must_list_every_locked_package_with_its_hashes() -> None:
    lock = (DEPLOY / "requirements.lock").read_text(encoding="utf-8")
    checks = check_packages()
    hashes = [{"type": "distribution", "hashes": [{"alg": "SHA-256", "content": "0" * 64}]}]
    components = [{"name": name, "version": version, "externalReferences": hashes} for name, version in checks.pinned(lock)]
    assert len(components) > 100
    assert checks.missing({"components": components}, lock) == []
    components[3] = {**components[3], "externalReferences": [{"type": "distribution"}]}
    without = [*components[:7], *components[8:]]
    assert len(checks.missing({"components": json.loads(json.dumps(without))}, lock)) == 2


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/requirements.lock", ".ci/requirements.lock"])
def test_every_pin_has_hashes(lock: str) -> None:
    entries = re.split(r"\n(?=\S)", (PROJECT / lock).read_text(encoding="utf-8").strip())
    assert all(re.match(r"[a-z0-9._-]+(\[[^\]]+\])?==\S+", entry) and "--hash=sha256:" in entry for entry in entries)


def test_the_gate_installs_nothing_without_hashes() -> None:
    gate = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    installs = [line for line in gate.splitlines() if re.search(r"\bpip.*\binstall\b", line)]
    assert installs
    assert all("--require-hashes" in line for line in installs)
