"""The demo: the module that ships with hubflow beats the same network from scratch on the same few rows."""

from pathlib import Path

from hubflow.flows.demo import demo


def test_the_pretrained_module_beats_training_from_scratch(prefect_server: str, tmp_path: Path) -> None:
    result = demo(str(tmp_path / "store"))
    tuned, scratch = result["metrics"]["fine-tuned"], result["metrics"]["from scratch"]
    assert tuned["accuracy"] > scratch["accuracy"]
    assert tuned["loss"] < scratch["loss"]
    assert Path(result["report"]).is_file()
    assert Path(result["export"], "manifest.json").is_file()
    assert result["store"] == str(tmp_path / "store")
