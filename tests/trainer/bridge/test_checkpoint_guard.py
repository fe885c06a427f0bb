"""Hostile checkpoints run no code in the trainer, even if nothing has inspected them before."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.torch_files import Calls
from tests.support.trainer_runs import Run, place, trainer_python
from trainer.checkpoint_safety.check import threats

pytestmark = pytest.mark.training

Config = dict[str, Any]
# The trainer, without its checks of the config and of the files that it names.
UNCHECKED = "import sys, trainer.__main__ as main; main.check = lambda *_: []; sys.exit(main.main())"


def attack(directory: Path, mode: str) -> dict[str, Any]:
    directory.mkdir()
    done = trainer_python("-m", "tests.support.checkpoint_attacks", str(directory), mode)
    assert "RESULT" in done.stdout, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT")[2])
    return result


@pytest.mark.slow
def test_the_guard_stops_what_would_run(tmp_path: Path) -> None:
    """Each attack runs without the guard: so the test notices an attack that has become harmless."""
    unguarded = attack(tmp_path / "open", "open")["attacks"]
    assert {name for name, result in unguarded.items() if result != "ran"} == set()
    guarded = attack(tmp_path / "guarded", "guarded")
    assert guarded["attacks"].keys() == unguarded.keys()
    assert {name for name, result in guarded["attacks"].items() if result in ("ran", "loaded")} == set()
    assert guarded["exchanges"] == ["1", "2", "3"]
    assert guarded["loaded"] == {key: [0.0, 1.0, 2.0, 1.0, 2.0] for key in ("new", "old", "extra state")}


@pytest.fixture(scope="module")
def checkpoint(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real checkpoint with optimizer and random states."""
    directory = tmp_path_factory.mktemp("real")
    preset = yaml.safe_load((Path(__file__).parents[3] / "trainer/config/configs/cpu-tiny.yaml").read_text())
    config: Config = preset["config"] | {
        "hf_model_path": str(inputs / "model"),
        "dataset": {"nano3_packed_sft_dir": str(inputs / "packed")},
        "checkpoint": {"save": str(directory / "checkpoints")},
    }
    config["train"] |= {"train_iters": 1}
    run = alone(place(directory / "run", config))
    assert run.end["event"] == "finished", run.log()
    return directory / "checkpoints"


def alone(run: Run, *, checked: bool = True) -> Run:
    """Run to the end without torchrun, which saves a process."""
    how = ("-m", "trainer") if checked else ("-c", UNCHECKED)
    done = trainer_python(*how, str(run.directory / "config.yaml"))
    (run.directory / "output.log").write_text(done.stdout + done.stderr)
    return run


def test_a_real_checkpoint_is_accepted(checkpoint: Path, inputs: Path) -> None:
    assert threats(checkpoint) == []
    assert threats(inputs / "model") == []


def _index(iteration: Path, canary: Path) -> None:
    (iteration / ".metadata").write_bytes(pickle.dumps(Calls(os.mkdir, str(canary))))


def _target(iteration: Path, canary: Path) -> None:
    (iteration / "run_config.yaml").write_text(f"model: {{_target_: torch.os.mkdir, _args_: ['{canary}']}}")


@pytest.mark.parametrize("checked", [True, False])
def test_training_from_a_hostile_checkpoint(
    config: Callable[..., Config], checkpoint: Path, tmp_path: Path, checked: bool
) -> None:
    copy, canary = Path(shutil.copytree(checkpoint, tmp_path / "copy")), tmp_path / "canary"
    _index(next(copy.glob("iter_*")), canary)
    run = alone(place(tmp_path / "run", config(checkpoint_megatron=str(copy))), checked=checked)
    assert not canary.exists()
    assert (run.end["event"], run.end["code"]) == ("failed", "hostile_checkpoint"), run.log()
    assert "posix.mkdir" in run.log()


@pytest.mark.parametrize("checked", [True, False])
def test_exporting_a_hostile_checkpoint(
    checkpoint: Path, inputs: Path, tmp_path: Path, checked: bool
) -> None:
    copy, canary = Path(shutil.copytree(checkpoint, tmp_path / "copy")), tmp_path / "canary"
    iteration = next(copy.glob("iter_*"))
    _target(iteration, canary)
    exported = {
        "device": "cpu",
        "hf_model_path": str(inputs / "model"),
        "export": {"checkpoint": str(iteration)},
    }
    run = place(tmp_path / "run", {**exported, "checkpoint": {"save": str(tmp_path / "run/checkpoints")}})
    alone(run, checked=checked)
    assert not canary.exists()
    assert (run.end["event"], run.end["code"]) == ("failed", "hostile_checkpoint"), run.log()
    assert "torch.os.mkdir" in run.log()
