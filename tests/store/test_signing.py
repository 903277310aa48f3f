"""Signed exports: where keys are set, what none of them has signed is refused by all that runs or deploys an export."""

import base64
import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_lines import one_line, run
from object_storage import ObjectStorage
from runs import Run
from small_exports import Exported
from verdicts import store_with_exports, verdict_on

from hubflow.deployment.pointer import export_of, override, roll_back
from hubflow.errors import SettingsError, SignatureError, StoreError
from hubflow.hub import Module, Predictor, create_img_cls_task, export
from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.deployment import GateSettings
from hubflow.schemas.settings import EvaluateSettings, PredictSettings
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.gate import gate
from hubflow.stages.predict import predict
from hubflow.stages.promote import promote
from hubflow.store.manifest import MANIFEST, MANIFEST_SIGNATURE, seal, verify_folder
from hubflow.store.signing import make_key, read_signing_key, require_signing, require_trusted, sign, sign_export
from hubflow.store.store import Store, sign_folder

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public one lies beside it."""
    path = tmp_path / "keys" / "export.key"
    path.parent.mkdir()
    make_key(path)
    return path


@pytest.fixture
def trusted(key: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key, whose exports alone this machine uses; it signs none itself."""
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    return key


@pytest.fixture
def folder(tiny_exports: dict[str, Exported], tmp_path: Path) -> Path:
    """An export that nobody has signed."""
    return shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")


def signed(folder: Path, key: Path) -> Path:
    sign(verify_folder(folder), read_signing_key(key))
    return folder


def openssl(*arguments: str | Path) -> bytes:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


def test_a_signed_export_predicts_as_before_and_an_unsigned_one_is_refused(folder: Path, trusted: Path) -> None:
    with pytest.raises(SignatureError, match="not signed; trusted are"):
        Predictor.load(folder)
    manifest = (folder / MANIFEST).read_bytes()
    predictor = Predictor.load(signed(folder, trusted))
    assert predictor.predict("good film")[0].label
    assert (folder / MANIFEST).read_bytes() == manifest
    assert pickle.loads(pickle.dumps(predictor)).predict("good film") == predictor.predict("good film")  # noqa: S301


def test_without_keys_a_signature_is_not_looked_at(folder: Path) -> None:
    (folder / MANIFEST_SIGNATURE).write_text("not a signature")
    assert Predictor.load(folder).predict("good film")


def test_what_was_changed_after_it_was_signed_is_refused(folder: Path, trusted: Path) -> None:
    signed(folder, trusted)
    labels = folder / "label_map.json"
    labels.write_text(json.dumps(list(reversed(json.loads(labels.read_text())))))
    with pytest.raises(StoreError, match=r"label_map\.json"):
        Predictor.load(folder)
    seal(folder, "exports", json.loads((folder / MANIFEST).read_text())["facts"])
    with pytest.raises(SignatureError, match="the export was altered after it was signed"):
        Predictor.load(folder)


def test_a_copy_is_signed_as_the_original_and_a_signature_is_of_one_export(
    folder: Path, trusted: Path, tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    signed(folder, trusted)
    Predictor.load(shutil.copytree(folder, tmp_path / "copy"))
    other = shutil.copytree(tiny_exports["token"].folder, tmp_path / "other")
    shutil.copy(folder / MANIFEST_SIGNATURE, other)
    with pytest.raises(SignatureError, match="is not of this manifest"):
        Predictor.load(other)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b'{"format_version": 1, "signatures": [{"key": "x"}]}', b"[" * 60_000, b" " * 100_000,
     b'{"format_version": 2, "signatures": []}'],
    ids=range(8),
)  # fmt: skip
def test_signatures_that_are_none_are_refused(content: bytes, folder: Path, trusted: Path) -> None:
    (folder / MANIFEST_SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureError, match=r"manifest\.sig"):
        Predictor.load(folder)


def _other_key(known: dict[str, str]) -> None:
    known["key"] = "0" * 64


def _other_algorithm(known: dict[str, str]) -> None:
    known["algorithm"] = "none"


def _no_signature(known: dict[str, str]) -> None:
    known["signature"] = ""


def _no_ascii(known: dict[str, str]) -> None:
    known["signature"] = "é" * 88


def _other_signature(known: dict[str, str]) -> None:
    known["signature"] = base64.b64encode(bytes(64)).decode()


@pytest.mark.parametrize("change", [_other_key, _other_algorithm, _no_signature, _no_ascii, _other_signature])
def test_a_signature_that_was_changed_is_refused(change: Callable[[dict[str, str]], None], folder: Path, trusted: Path) -> None:
    signed(folder, trusted)
    found = json.loads((folder / MANIFEST_SIGNATURE).read_text())
    change(found["signatures"][0])
    (folder / MANIFEST_SIGNATURE).write_text(json.dumps(found))
    with pytest.raises(SignatureError, match=str(folder)):
        Predictor.load(folder)


def test_a_linked_signature_is_refused(folder: Path, trusted: Path, tmp_path: Path) -> None:
    signed(folder, trusted)
    (folder / MANIFEST_SIGNATURE).rename(tmp_path / "signature")
    (folder / MANIFEST_SIGNATURE).symlink_to(tmp_path / "signature")
    with pytest.raises(StoreError, match="link"):
        Predictor.load(folder)


def test_keys_change_while_exports_stay_in_use(folder: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed(folder, trusted)
    new = trusted.with_name("new.key")
    make_key(new)
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{trusted}.pub,{new}.pub")
    Predictor.load(folder)
    signed(folder, new)
    assert len(json.loads((folder / MANIFEST_SIGNATURE).read_text())["signatures"]) == 2
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{new}.pub")
    Predictor.load(folder)
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{trusted}.pub")
    Predictor.load(folder)


def test_keys_of_openssl_work_and_openssl_verifies(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = tmp_path / "own.pem", tmp_path / "own.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    inline = public.read_text().splitlines()[1]
    found = signed(folder, private) / MANIFEST_SIGNATURE
    (known,) = json.loads(found.read_text())["signatures"]
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    (tmp_path / "der").write_bytes(der)
    assert openssl("dgst", "-sha256", "-r", tmp_path / "der").decode().split()[0] == known["key"]
    for trusted in (str(public), inline):
        monkeypatch.setenv("HUBFLOW_TRUST_KEYS", trusted)
        assert require_trusted(verify_folder(folder)) == known["key"]
    (tmp_path / "signature").write_bytes(base64.b64decode(known["signature"]))
    openssl(
        "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-sigfile", tmp_path / "signature", "-in", folder / MANIFEST
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("relative.pub", "neither an absolute path nor a key"),
        ("/nowhere/x.pub", "cannot be read"), ("/dev/zero", "cannot be read"),
        ("{private}", "no public"), ("{text}", "no public"), ("{rsa}", "no public"),
        ("MCowBQYDK2VwAyEA", "no public"), ("MCowBQYDK2VwAyEA!!!", "no public"),
    ],
)  # fmt: skip
def test_keys_that_are_none_are_named(
    value: str, message: str, folder: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.pub").write_text("not a key")
    if value == "{rsa}":
        openssl("genrsa", "-out", tmp_path / "rsa.key", "2048")
        openssl("rsa", "-in", tmp_path / "rsa.key", "-pubout", "-out", tmp_path / "rsa.pub")
    places = {"private": str(key), "text": str(tmp_path / "text.pub"), "rsa": str(tmp_path / "rsa.pub")}
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", value.format_map(places))
    with pytest.raises(SettingsError, match=rf"trust\.keys: .*{message}"):
        Predictor.load(folder)


@pytest.mark.parametrize("content", [b"", b"text", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_private_key_that_is_none_is_refused_without_a_word_of_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.key").write_bytes(content)
    with pytest.raises(SignatureError, match=r"bad\.key: no private key that can be read") as caught:
        read_signing_key(tmp_path / "bad.key")
    assert "AAAA" not in str(caught.value)


def test_a_private_key_of_another_kind_or_encrypted_is_refused(tmp_path: Path) -> None:
    openssl("genrsa", "-out", tmp_path / "rsa.key", "2048")
    with pytest.raises(SignatureError, match="of another kind"):
        read_signing_key(tmp_path / "rsa.key")
    openssl("genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", tmp_path / "locked.key")
    with pytest.raises(SignatureError, match="not encrypted"):
        read_signing_key(tmp_path / "locked.key")


def test_a_new_key_is_its_owners_alone_and_replaces_nothing(tmp_path: Path) -> None:
    make_key(tmp_path / "a.key")
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(SignatureError, match=r"File exists|is there already"):
        make_key(tmp_path / "a.key")
    (tmp_path / "b.key.pub").write_text("mine")
    with pytest.raises(SignatureError, match="is there already"):
        make_key(tmp_path / "b.key")
    (tmp_path / "c.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SignatureError):
        make_key(tmp_path / "c.key")
    assert (tmp_path / "a.key").read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "b.key").exists()


def test_predict_refuses_an_unsigned_export_and_writes_nothing(folder: Path, trusted: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\ngood film\n")
    settings = PredictSettings.model_validate({"export": str(folder), "data": str(tmp_path / "rows.csv")})
    with pytest.raises(SignatureError, match="not signed"):
        predict.fn(settings)
    assert not list(tmp_path.glob("*.parquet"))
    signed(folder, trusted)
    assert predict.fn(settings).rows == 1


def test_nothing_that_uses_an_export_of_a_store_takes_an_unsigned_one(
    digits_run: Run, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (first, second) = store_with_exports(digits_run, tmp_path, "a", "b")
    verdict = verdict_on(store, second, 1)
    override(first, "digits", store, "before there were keys")
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    uses: list[Callable[[], object]] = [
        lambda: evaluate_export.fn(second, digits_run.dataset, EvaluateSettings(), store),
        lambda: gate.fn(second, digits_run.dataset, digits_run_gate(), EvaluateSettings(), "digits", store),
        lambda: promote.fn(verdict, store),
        lambda: override(second, "digits", store, "a person's decision"),
        lambda: export_of(f"{store}/{second.path}"),
        lambda: Store(store).open(second),
        lambda: Store(store).find("exports", "b"),
    ]
    for use in uses:
        with pytest.raises(SignatureError, match="not signed"):
            use()
    sign_folder(f"{store}/{second.path}", read_signing_key(key))
    for use in uses[3:]:
        use()
    with pytest.raises(SignatureError, match="not signed"):
        roll_back("digits", store, "to what nobody has signed")


def digits_run_gate() -> GateSettings:
    return GateSettings.model_validate({"metric": "accuracy", "min_value": 0.1})


def test_an_export_is_signed_before_it_takes_its_place(
    digits_run: Run, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = store_with_exports(digits_run, tmp_path)
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    with pytest.raises(SignatureError, match=r"there is no trust\.signing_key"):
        export_inference_program.fn(digits_run.checkpoint, digits_run.encoded, digits_run.evaluation, store)
    monkeypatch.setenv("HUBFLOW_TRUST_SIGNING_KEY", str(key))
    with pytest.raises(SignatureError, match="not signed"):  # what was made before there were keys
        export_inference_program.fn(digits_run.checkpoint, digits_run.encoded, digits_run.evaluation, store)
    made = export_inference_program.fn(digits_run.checkpoint, digits_run.encoded, digits_run.evaluation, store, reuse=False)
    assert require_trusted(Store(store).open(made).sealed)
    assert export_inference_program.fn(digits_run.checkpoint, digits_run.encoded, digits_run.evaluation, store) == made


def test_what_cannot_be_signed_here_is_refused_before_it_is_made(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_signing()
    other = key.with_name("other.key")
    make_key(other)
    monkeypatch.setenv("HUBFLOW_TRUST_SIGNING_KEY", str(other))
    require_signing()
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    with pytest.raises(SignatureError, match=r"which no key of trust\.keys has"):
        require_signing()
    monkeypatch.setenv("HUBFLOW_TRUST_SIGNING_KEY", "/nowhere/export.key")
    with pytest.raises(SignatureError, match=r"/nowhere/export\.key cannot be read"):
        require_signing()


def test_an_export_by_hand_is_signed_too(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    with paddle.static.scope_guard(paddle.static.Scope()):
        _, outputs, _ = Module(name="digits").context()
        task = create_img_cls_task(outputs["feature_map"], 2)
        paddle.static.Executor(paddle.CPUPlace()).run(task.startup_program())
        with pytest.raises(SignatureError, match=r"there is no trust\.signing_key"):
            export(task, tmp_path / "export", ["a", "b"])
        monkeypatch.setenv("HUBFLOW_TRUST_SIGNING_KEY", str(key))
        Predictor.load(export(task, tmp_path / "export", ["a", "b"]))


def test_a_signature_goes_where_the_export_goes(
    s3: ObjectStorage, tiny_exports: dict[str, Exported], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, one = tiny_exports["text"], Store(s3.url)
    with one.create("exports", "k") as draft:
        shutil.copytree(source.folder, draft.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        draft.facts |= json.loads((source.folder / MANIFEST).read_text())["facts"]
    address = f"{s3.url}/exports/k"
    s3.be("two")
    assert Store(s3.url).find("exports", "k") is not None  # in the cache of this machine, not signed
    s3.be("one")
    assert sign_folder(address, read_signing_key(key))
    assert f"exports/k/{MANIFEST_SIGNATURE}" in s3.objects()
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    for machine in ("two", "three"):
        s3.be(machine)
        assert Store(s3.url).find("exports", "k") is not None
    s3.delete(f"exports/k/{MANIFEST_SIGNATURE}")
    assert Store(s3.url).find("exports", "k") is not None  # what is here is signed
    s3.be("four")
    with pytest.raises(SignatureError, match="not signed"):
        Store(s3.url).find("exports", "k")


def test_a_signed_export_is_sent_with_its_signature(
    s3: ObjectStorage, tiny_exports: dict[str, Exported], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBFLOW_TRUST_SIGNING_KEY", str(key))
    source = tiny_exports["text"]
    with Store(s3.url).create("exports", "k") as draft:
        shutil.copytree(source.folder, draft.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        draft.facts |= json.loads((source.folder / MANIFEST).read_text())["facts"]
    assert f"exports/k/{MANIFEST_SIGNATURE}" in s3.objects()
    s3.be("two")
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", f"{key}.pub")
    assert Store(s3.url).find("exports", "k") is not None


def test_the_commands_of_the_document(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command line of the section, as it is written, where the export is called as there."""
    section = DOCUMENT.read_text(encoding="utf-8").split("## Signing")[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    place = Path("hubflow-store/exports/KEY")
    shutil.copytree(folder, place)
    ran = [line.split()[1:] for line in lines if line.startswith("hubflow ")]
    assert [arguments[:2] for arguments in ran] == [["export", "keygen"], ["export", "sign"], ["export", "verify"]]
    for arguments in ran:
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    for line in re.findall(r"`(openssl [^`]*)`", section):
        if "-out export.key" in line:
            line = line.replace("export.key", "own.key")  # noqa: PLW2901
        subprocess.run(line, shell=True, check=True, capture_output=True)  # noqa: S602 - the document's own


def test_commands_say_what_is_missing_and_print_json(folder: Path, key: Path, tmp_path: Path) -> None:
    refused = run("export", "sign", str(folder))
    assert (refused.exit_code, "either --key FILE or --key-block NAME" in refused.stderr) == (2, True)
    refused = run("export", "verify", str(folder))
    assert (refused.exit_code, "there is no key to verify with" in refused.stderr) == (2, True)
    refused = run("export", "verify", str(folder), "--key", f"{key}.pub")
    assert (refused.exit_code, "not signed" in refused.stderr) == (2, True)
    refused = run("export", "sign", str(tmp_path), "--key", str(key))
    assert (refused.exit_code, "no readable manifest" in refused.stderr) == (2, True)
    made = one_line(run("export", "sign", str(folder), "--key", str(key), "--json").stdout)
    checked = one_line(run("export", "verify", str(folder), "--key", f"{key}.pub", "--json").stdout)
    assert made["key"] == checked["key"]
    assert os.path.samefile(made["export"], folder)


def test_signing_by_nothing_leaves_an_export_as_it_is(folder: Path) -> None:
    sign_export(folder)
    assert not (folder / MANIFEST_SIGNATURE).exists()
