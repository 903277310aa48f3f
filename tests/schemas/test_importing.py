"""Code that settings name: what is imported, what is refused, and what an import that fails does."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubflow.errors import SettingsError
from hubflow.evaluation.custom_metrics import custom_metrics
from hubflow.schemas.importing import import_object, search_folder_last
from hubflow.schemas.rows import contract_of

FUNCTION = "def share(evaluated, labels):\n    return 1.0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is searched last, as the working folder of `hubflow`; what is imported from it is forgotten at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    search_folder_last(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    search_folder_last(Path("/nowhere"))
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def imported(path: str) -> object:
    return import_object(path, "evaluate.metrics", "a function")


def test_a_function_of_the_folder_is_found(folder: Path) -> None:
    write(folder, "own_rules.py", FUNCTION)
    assert str(folder) not in sys.path
    assert imported("own_rules:share").__name__ == "share"  # type: ignore[attr-defined]
    assert sys.path[-1] == str(folder)


def test_the_folder_is_not_on_the_path_for_what_is_installed(folder: Path) -> None:
    write(folder, "torch.py", "raise RuntimeError('imported')\n")  # as a library that looks for it would
    with pytest.raises(SettingsError, match="has no 'nothing'"):
        imported("numpy:nothing")
    assert str(folder) not in sys.path


@pytest.mark.parametrize("module", ["unittest.__main__", "own.__main__", "own.__main__.more"])
def test_a_main_module_is_not_run(folder: Path, module: str) -> None:
    write(folder, "own/__init__.py", "")
    write(folder, "own/__main__.py", f"open({str(folder / 'ran')!r}, 'w')\nraise SystemExit(0)\n")
    with pytest.raises(SettingsError, match="runs a program"):
        imported(f"{module}:main")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("path", ["antigravity:fly", "this:s", "os:system", "subprocess:call", "idlelib.idle:main"])
def test_a_module_of_python_itself_is_not_imported(path: str) -> None:
    known = set(sys.modules)
    with pytest.raises(SettingsError, match="a module of Python itself"):
        imported(path)
    assert path.partition(":")[0] in known or path.partition(":")[0] not in sys.modules


@pytest.mark.parametrize(
    "statement",
    [
        "raise SystemExit(3)",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "raise BaseException('mine')",
        "import sys; sys.exit()",
        "1 / 0",
        "class Own(Exception):\n    def __repr__(self): raise ValueError\nraise Own",
        "def",
    ],
)
def test_whatever_an_import_raises_is_an_error_of_the_settings(folder: Path, statement: str) -> None:
    write(folder, "own_rules.py", f"{statement}\n")
    with pytest.raises(SettingsError, match=r"evaluate\.metrics: 'own_rules:share': own_rules cannot be imported"):
        imported("own_rules:share")


def test_whatever_an_attribute_raises_is_an_error_of_the_settings(folder: Path) -> None:
    write(folder, "own_rules.py", "def __getattr__(name):\n    raise SystemExit(1)\n")
    with pytest.raises(SettingsError, match="own_rules has no 'share'"):
        imported("own_rules:share")


def test_a_signal_during_an_import_is_no_error_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def end(*_: object) -> None:
        raise Ended

    write(folder, "own_rules.py", f"import os, time\nos.kill({os.getpid()}, {int(signal.SIGUSR1)})\ntime.sleep(5)\n")
    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(Ended):
            imported("own_rules:share")
    finally:
        signal.signal(signal.SIGUSR1, before)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    write(folder, "own_others.py", f"import os, time\nos.kill({os.getpid()}, {int(signal.SIGINT)})\ntime.sleep(5)\n")
    try:
        with pytest.raises(KeyboardInterrupt):
            imported("own_others:share")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("allowed", "path", "fault"),
    [
        ("", "own_rules:share", "trust.import_packages: none"),
        ("other", "own_rules:share", "trust.import_packages: other"),
        ("own", "own_rules:share", "trust.import_packages: own"),
        ("own_rules", "own_rules:share", None),
        ("other, own_rules", "own_rules:Group.share", None),
        ("own_rules", "own_rules:numpy.mean", "numpy is in none of the packages"),
        ("own_rules", "own_rules:mean", "numpy is in none of the packages"),
        ("own_rules", "own_rules:os.system", "os is a module of Python itself"),
        ("own_rules", "own_rules:filled", "is a module of Python itself"),
        ("own_rules.inner", "own_rules:share", "own_rules is in none of the packages"),
        ("", "hubflow.schemas.rows:TextRows", None),
        ("", "hubflow.store.manifest:write_atomically", "hubflow.store.manifest is in none of the packages"),
    ],
)
def test_the_owner_of_the_machine_says_what_settings_may_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, path: str, fault: str | None
) -> None:
    write(
        folder,
        "own_rules.py",
        f"import os\nimport functools\nimport numpy\nfrom numpy import mean\nopen({str(folder / 'ran')!r}, 'w')\n{FUNCTION}"
        "filled = functools.partial(os.system, 'true')\nclass Group:\n    share = staticmethod(share)\n",
    )
    monkeypatch.setenv("HUBFLOW_TRUST_IMPORT_PACKAGES", allowed)
    if fault is None:
        assert callable(imported(path))
        return
    with pytest.raises(SettingsError, match=fault):
        imported(path)
    assert (folder / "ran").exists() == ("Python itself" in fault or "numpy" in fault)  # the others are not even imported


def test_an_object_of_another_kind_is_refused_before_it_is_called(folder: Path) -> None:
    write(
        folder,
        "own_rules.py",
        f"from pathlib import Path\nclass Run:\n    def __init__(self, *_):\n        Path({str(folder / 'ran')!r}).touch()\n"
        "thing = object()\nnumber = 3\ndef alone(evaluated):\n    Run()\n",
    )
    for name, fault in {
        "Run": "is a class; expected package.module:function",
        "thing": "is a object; expected",
        "number": "is a int; expected",
        "alone": "cannot be called with the rows and the labels",
    }.items():
        with pytest.raises(SettingsError, match=fault):
            custom_metrics([f"own_rules:{name}"])
        with pytest.raises(SettingsError, match=r"is no subclass of hubflow\.schemas\.rows\.TextRows"):
            contract_of("text", f"own_rules:{name}")
    assert not (folder / "ran").exists()
