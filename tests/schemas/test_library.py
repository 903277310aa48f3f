"""Settings of the library: from the environment and a file, with faults named."""

from pathlib import Path

import pytest

from hubflow.errors import SettingsError
from hubflow.schemas.library import library_settings


def test_environment_overrides_the_file_and_the_file_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = library_settings().limits.max_image_pixels
    config = tmp_path / "hubflow.toml"
    config.write_text("[limits]\nmax_image_pixels = 1000\n")
    monkeypatch.setenv("HUBFLOW_CONFIG", str(config))
    assert library_settings().limits.max_image_pixels == 1000
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_IMAGE_PIXELS", "2000")
    assert library_settings().limits.max_image_pixels == 2000
    monkeypatch.delenv("HUBFLOW_CONFIG")
    monkeypatch.delenv("HUBFLOW_LIMITS_MAX_IMAGE_PIXELS")
    assert library_settings().limits.max_image_pixels == default


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "hubflow.toml"
    config.write_text("[limits]\nmax_image_pixels = 1000\n")
    monkeypatch.setenv("HUBFLOW_CONFIG", str(config))
    assert library_settings().limits.max_image_pixels == 1000
    config.write_text("[limits]\nmax_image_pixels = 30000\n")
    assert library_settings().limits.max_image_pixels == 30000


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("HUBFLOW_LIMITS_MAX_IMAGE_PIXEL", "7", "did you mean 'max_image_pixels'"),
        ("HUBFLOW_LIMITS_MAX_IMAGE_PIXELS", "many", "limits.max_image_pixels"),
        ("HUBFLOW_LIMITS_MAX_IMAGE_PIXELS", "0", "limits.max_image_pixels"),
        ("HUBFLOW_CONFIG", "/nowhere/hubflow.toml", "HUBFLOW_CONFIG: cannot read /nowhere/hubflow.toml"),
        ("HUBFLOW_CONFIG", "/dev", "HUBFLOW_CONFIG"),
    ],
)
def test_a_fault_names_its_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str, fault: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=fault):
        library_settings()


@pytest.mark.parametrize(
    "text", ["limits = 3\n", "[limit]\nmax_image_pixels = 1\n", "not toml", "[limits]\nmax_image_pixels = 'x'\n"]
)
def test_a_fault_of_the_file_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    config = tmp_path / "hubflow.toml"
    config.write_text(text)
    monkeypatch.setenv("HUBFLOW_CONFIG", str(config))
    with pytest.raises(SettingsError, match=r"hubflow\.toml"):
        library_settings()
