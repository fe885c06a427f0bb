"""Hostile checkpoints and models are findings at the field that names them, and nothing else reads them."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_files import save
from tests.support.packed_data import make_dataset
from tests.support.torch_files import Calls
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Finding, Hardware, check

ALONE = Hardware(nodes=1, gpus_per_node=1)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Return a config without errors that begins from a checkpoint."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    make_dataset(tmp_path / "packed", tokenizer=str(model))
    return {
        "device": "cpu", "hf_model_path": str(model), "seq_length": 4096, "train": {"global_batch_size": 1},
        "dataset": {"nano3_packed_sft_dir": str(tmp_path / "packed")},
        "checkpoint": {"save": str(tmp_path / "save")},
    }  # fmt: skip


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def attack(canary: Path) -> bytes:
    return pickle.dumps(Calls(os.system, f"touch {canary}"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save(tmp_path / "base", 1)
    return tmp_path / "base"


def errors(config: dict[str, Any], *, files: bool = True) -> list[Finding]:
    found = check(TrainingConfig.model_validate(config), ALONE, files=files)
    return [
        one for one in found if one.severity == "error" and one.pointer.startswith(("/c", "/e", "/h", "/t"))
    ]


@pytest.mark.parametrize("iteration", [1, 2])
def test_every_iteration_of_a_checkpoint_is_inspected(
    config: dict[str, Any], base: Path, attack: bytes, canary: Path, iteration: int
) -> None:
    save(base, 2)
    assert errors({**config, "checkpoint_megatron": str(base)}) == []
    (base / f"iter_000000{iteration}/.metadata").write_bytes(attack)
    [found] = errors({**config, "checkpoint_megatron": str(base)})
    assert (found.code, found.pointer) == ("hostile_checkpoint", "/checkpoint_megatron")
    assert f"'iter_000000{iteration}/.metadata' names 'posix.system'" in found.message
    assert found.hint
    assert not canary.exists()


def test_a_checkpoint_to_load(config: dict[str, Any], base: Path, attack: bytes) -> None:
    config["checkpoint"]["load"] = str(base)
    assert errors(config) == []
    (base / "latest_train_state.pt").write_bytes(attack)
    [found] = errors(config)
    assert (found.code, found.pointer) == ("hostile_checkpoint", "/checkpoint/load")


def test_a_save_directory_that_the_run_would_resume_from(config: dict[str, Any], attack: bytes) -> None:
    """Only the newest complete checkpoint is loaded."""
    directory = Path(config["checkpoint"]["save"])
    for iteration in (1, 2):
        save(directory, iteration)
    save(directory, 3, without="__0_0.distcp")
    (directory / "iter_0000001/.metadata").write_bytes(attack)
    assert errors(config) == []
    (directory / "iter_0000002/run_config.yaml").write_text("model: {_target_: torch.os.system}")
    [found] = errors(config)
    assert (found.code, found.pointer) == ("hostile_checkpoint", "/checkpoint/save")
    assert "'torch.os.system'" in found.message


@pytest.mark.parametrize("where", ["tokenizer.tokenizer_model", "hf_model_path"])
def test_a_model(config: dict[str, Any], tmp_path: Path, attack: bytes, where: str) -> None:
    if where != "hf_model_path":
        (tmp_path / "other").mkdir()
        config["tokenizer"] = {"tokenizer_model": str(tmp_path / "other")}
    assert errors(config) == []
    model = tmp_path / ("model" if where == "hf_model_path" else "other")
    (model / "pytorch_model.bin").write_bytes(attack)
    [found] = errors(config)
    assert (found.code, found.pointer) == ("hostile_checkpoint", "/" + where.replace(".", "/"))
    assert "'pytorch_model.bin' names 'posix.system'" in found.message


def test_an_exported_checkpoint_and_its_base(config: dict[str, Any], base: Path, attack: bytes) -> None:
    checkpoint = save(Path(config["checkpoint"]["save"]), 1)
    config |= {"export": {"checkpoint": str(checkpoint)}, "peft": "lora", "checkpoint_megatron": str(base)}
    assert errors(config) == []
    (base / "iter_0000001/train_state.pt").write_bytes(attack)
    (checkpoint / ".metadata").write_bytes(attack)
    found = {(one.code, one.pointer) for one in errors(config)}
    places = ("/checkpoint_megatron", "/export/checkpoint", "/checkpoint/save")
    assert found == {("hostile_checkpoint", place) for place in places}


def test_a_damaged_checkpoint_is_not_called_hostile(config: dict[str, Any], base: Path) -> None:
    config["checkpoint_megatron"] = str(base)
    os.truncate(base / "iter_0000001/.metadata", 100)
    [found] = errors(config)
    assert (found.code, found.pointer) == ("bad_checkpoint", "/checkpoint_megatron")


def test_the_most_dangerous_file_is_named(config: dict[str, Any], base: Path, attack: bytes) -> None:
    (base / "iter_0000001/run_config.yaml").write_bytes(b"\xff")
    (base / "iter_0000001/train_state.pt").write_bytes(attack)
    [found] = errors({**config, "checkpoint_megatron": str(base)})
    assert found.code == "hostile_checkpoint"
    assert "train_state.pt" in found.message
    assert "1 more files" in found.message


def test_files_that_only_the_cluster_sees_are_not_read(
    config: dict[str, Any], base: Path, attack: bytes
) -> None:
    (base / "iter_0000001/.metadata").write_bytes(attack)
    assert errors({**config, "checkpoint_megatron": str(base)}, files=False) == []
