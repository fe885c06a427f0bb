"""Checks of an export, and checks of training that do not apply to it."""

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


def test_an_export_needs_no_data_and_no_gpu_memory(config: dict[str, Any]) -> None:
    assert found(config) == []
    assert memory_of(TrainingConfig.model_validate(config), ALONE) is None


@pytest.mark.parametrize("missing", [".metadata", "run_config.yaml", "__0_0.distcp"])
def test_the_checkpoint_must_be_complete(config: dict[str, Any], missing: str) -> None:
    (Path(config["export"]["checkpoint"]) / missing).unlink()
    assert found(config) == [("error", "bad_checkpoint", "/export/checkpoint")]


def test_a_directory_of_checkpoints_is_rejected(config: dict[str, Any]) -> None:
    config["export"]["checkpoint"] = str(Path(config["export"]["checkpoint"]).parent)
    assert found(config) == [("error", "bad_checkpoint", "/export/checkpoint")]


def test_an_adapter_needs_the_weights_of_the_base(config: dict[str, Any], model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert found(config) == []
    assert found({**config, "peft": "lora"}) == [("error", "bad_checkpoint", "/hf_model_path")]
    base = save(model, 1)
    assert found({**config, "peft": "lora", "checkpoint_megatron": str(base)}) == []


def test_an_export_always_needs_the_tokenizer_of_the_base(config: dict[str, Any], model: Path) -> None:
    (model / "config.json").unlink()
    assert found(config) == [("error", "bad_checkpoint", "/hf_model_path")]
    assert found({**config, "hf_model_path": None}) == [("error", "missing_model", "/hf_model_path")]


@pytest.mark.parametrize("hardware", [Hardware(1, 2), Hardware(2, 1)])
def test_an_export_must_be_one_process(config: dict[str, Any], hardware: Hardware) -> None:
    assert found(config, hardware) == [("error", "not_alone", "/export")]


def test_unreadable_files_are_unverified(config: dict[str, Any]) -> None:
    assert found(config, files=False) == [
        ("unverified", "unseen_model", "/hf_model_path"),
        ("unverified", "unseen_checkpoint", "/export/checkpoint"),
    ]


@pytest.mark.parametrize(
    ("failure", "fields"), [("oom", []), ("time_limit", ["resources.time_limit_minutes"])]
)
def test_the_only_suggested_fix_is_more_time(config: dict[str, Any], failure: str, fields: list[str]) -> None:
    parsed = TrainingConfig.model_validate(config)
    assert [one.field for one in suggested_fixes(failure, parsed, 1, 60, 600)] == fields
