"""What an export is checked for, and what of a training run is not asked of it."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_files import save
from trainer.config.training_config import TrainingConfig
from trainer.failures.suggested_fixes import suggested_fixes
from trainer.preflight import Hardware, check, memory_of

ALONE = Hardware(nodes=1, gpus_per_node=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").touch()
    return tmp_path / "model"


@pytest.fixture
def config(model: Path, tmp_path: Path) -> dict[str, Any]:
    checkpoint = save(tmp_path / "checkpoints", 4)
    return {"hf_model_path": str(model), "export": {"checkpoint": str(checkpoint)}}


def found(config: dict[str, Any], hardware: Hardware = ALONE, *, files: bool = True) -> list[tuple[str, ...]]:
    parsed = TrainingConfig.model_validate(config)
    return [(one.severity, one.code, one.pointer) for one in check(parsed, hardware, files=files)]


def test_it_needs_no_data_and_no_memory_of_a_gpu(config: dict[str, Any]) -> None:
    assert found(config) == []
    assert memory_of(TrainingConfig.model_validate(config), ALONE) is None


@pytest.mark.parametrize("missing", [".metadata", "run_config.yaml", "__0_0.distcp"])
def test_the_checkpoint_is_whole(config: dict[str, Any], missing: str) -> None:
    (Path(config["export"]["checkpoint"]) / missing).unlink()
    assert found(config) == [("error", "bad_checkpoint", "/export/checkpoint")]


def test_the_directory_of_checkpoints_is_not_one(config: dict[str, Any]) -> None:
    config["export"]["checkpoint"] = str(Path(config["export"]["checkpoint"]).parent)
    assert found(config) == [("error", "bad_checkpoint", "/export/checkpoint")]


def test_weights_of_the_base_are_needed_where_an_adapter_is_merged(
    config: dict[str, Any], model: Path
) -> None:
    (model / "model.safetensors").unlink()
    assert found(config) == []
    assert found({**config, "peft": "lora"}) == [("error", "bad_checkpoint", "/hf_model_path")]
    base = save(model, 1)
    assert found({**config, "peft": "lora", "checkpoint_megatron": str(base)}) == []


def test_its_tokenizer_is_always_needed(config: dict[str, Any], model: Path) -> None:
    (model / "config.json").unlink()
    assert found(config) == [("error", "bad_checkpoint", "/hf_model_path")]
    assert found({**config, "hf_model_path": None}) == [("error", "missing_model", "/hf_model_path")]


@pytest.mark.parametrize("hardware", [Hardware(1, 2), Hardware(2, 1)])
def test_it_is_one_process(config: dict[str, Any], hardware: Hardware) -> None:
    assert found(config, hardware) == [("error", "not_alone", "/export")]


def test_what_is_not_seen_is_not_passed(config: dict[str, Any]) -> None:
    assert found(config, files=False) == [
        ("unverified", "unseen_model", "/hf_model_path"),
        ("unverified", "unseen_checkpoint", "/export/checkpoint"),
    ]


@pytest.mark.parametrize(
    ("failure", "fields"), [("oom", []), ("time_limit", ["resources.time_limit_minutes"])]
)
def test_only_more_time_may_help(config: dict[str, Any], failure: str, fields: list[str]) -> None:
    parsed = TrainingConfig.model_validate(config)
    assert [one.field for one in suggested_fixes(failure, parsed, 1, 60, 600)] == fields
