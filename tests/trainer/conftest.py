"""Inputs and configs for real runs of the trainer."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.trainer_runs import PROJECT

Config = dict[str, Any]


@pytest.fixture
def config(inputs: Path, tmp_path: Path) -> Callable[..., Config]:
    """The preset cpu-tiny, six steps long, saving into tmp_path/checkpoints."""
    preset = yaml.safe_load((PROJECT / "trainer/config/configs/cpu-tiny.yaml").read_text())["config"]
    preset |= {
        "hf_model_path": str(inputs / "model"),
        "dataset": {"nano3_packed_sft_dir": str(inputs / "packed")},
    }
    preset["train"] |= {"train_iters": 6, "global_batch_size": 4}
    preset["validation"] |= {"eval_interval": 3, "eval_iters": 1}
    preset["checkpoint"] = {"save": str(tmp_path / "checkpoints"), "save_interval": 3}

    def changed(**sections: Any) -> Config:
        result = deepcopy(preset)
        for name, value in sections.items():
            result[name] = {**result.get(name, {}), **value} if isinstance(value, dict) else value
        return result

    return changed
