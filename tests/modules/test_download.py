"""Modules come whole or not at all, are held to their hashes ever after, and need no network once they are on disk."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer, serve_hub
from huggingface_hub import constants
from safetensors.numpy import save_file

from hubflow.errors import DownloadError, ModuleError
from hubflow.modules.download import cache_home, resolve_module
from hubflow.modules.fetch import require_as_safe
from hubflow.modules.weights import read_weights

REPO = "org/tiny"
NAME = f"hf://{REPO}"
WEIGHTS = "model.safetensors"
CHUNK_BYTES = 10_000


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\n")
    (folder / "README.md").write_text("not needed")
    (folder / "tf_model.h5").write_bytes(b"not needed")
    (folder / "pytorch_model.bin").write_bytes(b"not needed beside safetensors")
    save_file({"a": np.arange(50_000, dtype=np.float32)}, folder / WEIGHTS)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUBFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # huggingface_hub waits a second before it tries again
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)  # its own 10 MB would need files of more
    return tmp_path / "cache"


@pytest.fixture
def hub(upstream: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub({REPO: upstream}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def same(folder: Path, upstream: Path, *names: str) -> bool:
    return all((folder / name).read_bytes() == (upstream / name).read_bytes() for name in names)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_use_fetches_what_is_needed_and_nothing_else(hub: HubServer, cache: Path, upstream: Path) -> None:
    folder = resolve_module(NAME)
    assert folder == cache / "modules" / "org--tiny" / "main"
    assert visible(folder) == ["checksums.json", "config.json", WEIGHTS, "vocab.txt"]
    assert same(folder, upstream, "config.json", WEIGHTS, "vocab.txt")


def test_the_second_use_touches_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_module(NAME)
    seen = len(hub.requests)
    assert resolve_module(NAME) == folder
    assert len(hub.requests) == seen
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve_module(NAME) == folder


def test_a_module_on_disk_needs_no_huggingface_hub(hub: HubServer, upstream: Path) -> None:
    resolve_module(NAME)
    done = run_without_huggingface_hub(f"print(resolve_module({NAME!r}), resolve_module({str(upstream)!r}))")
    assert done.returncode == 0, done.stderr
    assert "org--tiny" in done.stdout


def test_fetching_without_huggingface_hub_says_what_to_install(cache: Path) -> None:
    done = run_without_huggingface_hub(f"resolve_module({NAME!r})")
    assert done.returncode == 1
    assert "DownloadError: hf://org/tiny@main is not on disk" in done.stderr
    assert 'pip install "hubflow[hub]"' in done.stderr


def run_without_huggingface_hub(statement: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys\nsys.modules['huggingface_hub'] = None\nfrom hubflow.modules.download import resolve_module\n" + statement
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)


def test_without_pretrained_no_weights_come_and_later_they_do(hub: HubServer, upstream: Path) -> None:
    folder = resolve_module(NAME, pretrained=False)
    assert visible(folder) == ["checksums.json", "config.json", "vocab.txt"]
    assert not hub.gets(WEIGHTS)
    assert resolve_module(NAME) == folder
    assert same(folder, upstream, WEIGHTS)
    assert len(hub.gets("vocab.txt")) == 1


def test_a_cut_connection_is_taken_up_again_by_range(hub: HubServer, upstream: Path) -> None:
    hub.cut_once[WEIGHTS] = 70_000
    assert same(resolve_module(NAME), upstream, WEIGHTS)
    assert [request.range for request in hub.gets(WEIGHTS)] == [None, "bytes=70000-"]


def test_a_download_that_failed_goes_on_in_the_next_run(hub: HubServer, upstream: Path, cache: Path) -> None:
    hub.truncate[WEIGHTS] = 70_000
    with pytest.raises(DownloadError, match="did not finish"):
        resolve_module(NAME)
    hub.truncate.clear()
    hub.requests.clear()
    folder = resolve_module(NAME)
    assert same(folder, upstream, WEIGHTS)
    assert [request.range for request in hub.gets(WEIGHTS)] == ["bytes=70000-"]
    assert not hub.gets("vocab.txt")
    assert visible(folder) == ["checksums.json", "config.json", WEIGHTS, "vocab.txt"]


def test_a_hub_that_does_not_answer_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waited for without end."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"did not finish .*timed out.*check the network"):
            resolve_module(f"hf://{REPO}")


def test_a_server_without_ranges_starts_again(hub: HubServer, upstream: Path) -> None:
    hub.truncate[WEIGHTS] = 70_000
    with pytest.raises(DownloadError):
        resolve_module(NAME)
    hub.truncate.clear()
    hub.ignore_ranges = True
    assert same(resolve_module(NAME), upstream, WEIGHTS)


@pytest.mark.slow
def test_a_process_killed_midway_leaves_nothing_that_is_taken_for_whole(hub: HubServer, upstream: Path, cache: Path) -> None:
    hub.cut_once[WEIGHTS] = 70_000
    script = (
        "import os, time\ntime.sleep = lambda seconds: os._exit(9)\n"
        f"import huggingface_hub.constants as c\nc.DOWNLOAD_CHUNK_SIZE = {CHUNK_BYTES}\n"
        "from hubflow.modules.download import resolve_module\n" + f"resolve_module({NAME!r})"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, check=False)
    assert killed.returncode == 9, killed.stderr
    folder = cache / "modules" / "org--tiny" / "main"
    assert not (folder / WEIGHTS).exists()
    assert not (folder / "checksums.json").exists()
    hub.requests.clear()
    assert same(resolve_module(NAME), upstream, WEIGHTS)
    assert re.fullmatch(r"bytes=[1-9]\d+-", hub.gets(WEIGHTS)[0].range or "")
    assert len(hub.gets(WEIGHTS)) == 1


@pytest.mark.parametrize("file", [WEIGHTS, "vocab.txt"])
def test_a_corrupted_body_is_refused_naming_both_hashes(hub: HubServer, upstream: Path, file: str) -> None:
    hub.corrupt.add(file)
    with pytest.raises(DownloadError, match=rf"{file}.*expected .*[0-9a-f]{{40,}}, found [0-9a-f]{{40,}}"):
        resolve_module(NAME)
    hub.corrupt.clear()
    assert same(resolve_module(NAME), upstream, file)


def test_a_file_altered_on_disk_is_refused(hub: HubServer, upstream: Path) -> None:
    folder = resolve_module(NAME)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(
        DownloadError, match=rf"{WEIGHTS}.*expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}.*Delete the folder {folder}"
    ):
        resolve_module(NAME)
    shutil.rmtree(folder)
    assert same(resolve_module(NAME), upstream, WEIGHTS)


def test_a_file_gone_from_disk_is_refused(hub: HubServer) -> None:
    folder = resolve_module(NAME)
    (folder / "vocab.txt").unlink()
    with pytest.raises(DownloadError, match=r"vocab\.txt.*found no file"):
        resolve_module(NAME)


def test_hashes_are_recorded_at_first_use_when_the_server_declares_none(hub: HubServer, upstream: Path) -> None:
    hub.plain_etags = True
    folder = resolve_module(NAME)
    recorded = json.loads((folder / "checksums.json").read_text())
    assert sorted(recorded["sha256"]) == ["config.json", WEIGHTS, "vocab.txt"]
    assert recorded["commit"] == hub.commit(REPO)
    (folder / "vocab.txt").write_text("another")
    with pytest.raises(DownloadError, match=r"vocab\.txt"):
        resolve_module(NAME)


def test_a_pinned_hash_comes_before_what_the_server_declares(
    hub: HubServer, upstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)  # the package that carries it is not installed then
    hub.folders = {"sentence-transformers/all-MiniLM-L6-v2": upstream}
    with pytest.raises(DownloadError, match="pinned sha256 53aa51172d14"):
        resolve_module("all-MiniLM-L6-v2")
    assert resolve_module("all-MiniLM-L6-v2", pretrained=False).name == "main"


def test_shards_are_fetched_with_their_index(hub: HubServer, upstream: Path) -> None:
    (upstream / WEIGHTS).unlink()
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    for name, shard in shards.items():
        save_file({name: np.ones(3, np.float32)}, upstream / shard)
    (upstream / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    folder = resolve_module(NAME)
    assert sorted(read_weights(folder)) == ["a", "b"]
    assert not (folder / "pytorch_model.bin").exists()


def test_an_index_that_names_files_elsewhere_is_refused(hub: HubServer, upstream: Path) -> None:
    (upstream / WEIGHTS).unlink()
    (upstream / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../../evil.safetensors"}}))
    with pytest.raises(ModuleError, match="evil"):
        resolve_module(NAME)


def test_names_of_a_repository_lead_to_no_other_folder(hub: HubServer, upstream: Path, cache: Path) -> None:
    """A listed file of another folder is none of the module, and never asked for."""
    hub.listed = ["sentencepiece/a.model", "sentencepiece/../../../../evil.model", "../x.pdparams", "sentencepiece\\b.model"]
    (upstream / "spiece.model").write_bytes(b"of the module")
    folder = resolve_module(NAME)
    assert visible(folder) == ["checksums.json", "config.json", WEIGHTS, "spiece.model", "vocab.txt"]
    assert not any(".." in request.path or "sentencepiece" in request.path for request in hub.requests)
    assert not list(cache.parent.rglob("evil*"))


def test_more_bytes_than_declared_are_refused(hub: HubServer, cache: Path) -> None:
    hub.more[WEIGHTS] = 10_000_000
    with pytest.raises(DownloadError, match=rf"{WEIGHTS}: sends more than the declared 200,\d+ bytes; nothing of it is kept"):
        resolve_module(NAME)
    partial = cache / "modules" / "org--tiny" / "main" / ".partial"
    assert sum(file.stat().st_size for file in partial.iterdir()) == 0
    hub.more.clear()
    assert resolve_module(NAME).is_dir()


def test_a_file_beyond_the_limit_is_not_fetched(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_DOWNLOAD_BYTES", "100000")
    with pytest.raises(DownloadError, match=rf"{WEIGHTS}: has 200,\d+ bytes, more than limits\.max_download_bytes 100,000"):
        resolve_module(NAME)
    assert not hub.gets(WEIGHTS)


@pytest.mark.parametrize("location", ["http://hub.example/x", "file:///etc/passwd", "ftp://hub.example/x", "/etc/passwd"])
def test_a_hub_over_https_sends_to_https_alone(location: str) -> None:
    with pytest.raises(DownloadError, match="not https"):
        require_as_safe("https://hub.example/org/tiny/resolve/main/x", location)
    require_as_safe("https://hub.example/x", "https://files.example/x")
    require_as_safe("http://127.0.0.1:1/x", "http://localhost:1/x")


def test_pickled_weights_come_only_when_there_are_no_others(hub: HubServer, upstream: Path) -> None:
    (upstream / WEIGHTS).unlink()
    assert "pytorch_model.bin" in visible(resolve_module(NAME))


def test_a_repository_without_weights_or_configuration_is_named(hub: HubServer, upstream: Path) -> None:
    (upstream / WEIGHTS).unlink()
    (upstream / "pytorch_model.bin").unlink()
    with pytest.raises(DownloadError, match=r"no weights there; looked for model\.safetensors.*found .*tf_model\.h5"):
        resolve_module(NAME)
    (upstream / "config.json").unlink()
    with pytest.raises(DownloadError, match=r"no config\.json there"):
        resolve_module(NAME, pretrained=False)


def test_an_unknown_repository_and_revision_are_named(hub: HubServer) -> None:
    with pytest.raises(DownloadError, match=rf"{hub.endpoint} has no repository 'org/other'.*HF_TOKEN"):
        resolve_module("hf://org/other")
    with pytest.raises(DownloadError, match="no revision 'v9'"):
        resolve_module(NAME, revision="v9")


def test_no_network_names_the_endpoint_and_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9 did not finish.*HF_ENDPOINT.*give a folder"):
        resolve_module(NAME)


def test_offline_mode_is_explained(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE forbids"):
        resolve_module(NAME)


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "secret"
    hub.redirect_large_files = True
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        resolve_module(NAME)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert same(resolve_module(NAME), upstream, WEIGHTS)
    elsewhere = [request for request in hub.requests if request.host.startswith("localhost")]
    assert elsewhere
    assert all(request.authorization is None for request in elsewhere)


@pytest.mark.slow
def test_two_processes_at_once_fetch_each_file_once(hub: HubServer, upstream: Path) -> None:
    hub.delay_seconds = 0.2
    script = f"from hubflow.modules.download import resolve_module\nprint(resolve_module({NAME!r}))"
    running = [subprocess.Popen([sys.executable, "-c", script], env=os.environ, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(outputs) == 1
    assert len(hub.gets(WEIGHTS)) == 1
    assert same(resolve_module(NAME), upstream, WEIGHTS, "vocab.txt")


def test_all_files_are_of_one_commit(hub: HubServer) -> None:
    resolve_module(NAME)
    files = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert files
    assert all(f"/resolve/{hub.commit(REPO)}/" in path for path in files)


def test_each_revision_has_its_own_folder(hub: HubServer, cache: Path) -> None:
    hub.revisions.add("refs/pr/1")
    assert resolve_module(f"{NAME}@refs/pr/1").relative_to(cache).as_posix() == "modules/org--tiny/refs%2Fpr%2F1"
    assert resolve_module(NAME, revision="refs/pr/1") == resolve_module(f"{NAME}@refs/pr/1", revision="refs/pr/1")


def test_two_revisions_that_differ_are_refused(cache: Path) -> None:
    with pytest.raises(ModuleError, match="names revision 'v1', but revision 'v2'"):
        resolve_module(f"{NAME}@v1", revision="v2")


@pytest.mark.parametrize(
    "name",
    [
        "hf://../../x",
        "hf://org/..",
        "hf://org/a..b",
        "hf://org/x@../../y",
        "hf://org/x@",
        "hf://org",
        "hf:///x",
        "hf://a/b/c",
        "hf://org/x@/y",
        "package:../networks",
        "package:absent",
    ],
)
def test_no_name_leads_out_of_the_cache(name: str, cache: Path) -> None:
    with pytest.raises(ModuleError):
        resolve_module(name)
    assert not cache.exists()


def test_a_checksum_list_that_names_files_elsewhere_is_refused(hub: HubServer) -> None:
    folder = resolve_module(NAME)
    (folder / "checksums.json").write_text(json.dumps({"source": "", "commit": "", "weights": True, "sha256": {"../x": "0"}}))
    with pytest.raises(DownloadError, match="delete the folder"):
        resolve_module(NAME)


def test_a_short_name_wins_over_a_folder_of_that_name(hub: HubServer, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(upstream, upstream.parent / "ernie")
    monkeypatch.chdir(upstream.parent)
    assert resolve_module("./ernie") == upstream.parent / "ernie"
    with pytest.raises(DownloadError, match=r"no repository 'nghuyong/ernie-1\.0-base-zh'"):
        resolve_module("ernie")


def test_a_short_name_takes_a_revision(hub: HubServer, upstream: Path) -> None:
    hub.folders = {"nghuyong/ernie-1.0-base-zh": upstream}
    hub.revisions.add("v1")
    assert resolve_module("ernie", revision="v1").parts[-2:] == ("nghuyong--ernie-1.0-base-zh", "v1")


def test_a_folder_is_itself(upstream: Path) -> None:
    assert resolve_module(str(upstream)) == upstream


def test_a_folder_without_configuration_lists_what_is_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModuleError, match=r"no config\.json.*model\.safetensors.*found notes\.txt"):
        resolve_module(str(tmp_path))


def test_an_absent_folder_suggests_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"no module folder 'org/name'; did you mean hf://org/name\? A module is .*\.$"):
        resolve_module("org/name")


def test_an_absent_folder_suggests_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "resnet18").mkdir()
    with pytest.raises(ModuleError, match=r"no module folder '.*/resnet-18'; did you mean .*/resnet18\? A module is .*\.$"):
        resolve_module(str(tmp_path / "resnet-18"))
    with pytest.raises(ModuleError, match=r"no module folder '.*/other'\. A module is .*\.$"):
        resolve_module(str(tmp_path / "other"))


def test_a_folder_has_no_revision(upstream: Path) -> None:
    with pytest.raises(ModuleError, match="no revision"):
        resolve_module(str(upstream), revision="main")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HUBFLOW_CACHE": "/a"}, "/a"),
        ({"HUBFLOW_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/hubflow"),
        ({"HUBFLOW_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/hubflow"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    variables: Mapping[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_home() == Path(expected)
