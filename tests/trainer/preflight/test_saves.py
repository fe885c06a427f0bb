"""Checks of how checkpoints are written."""

import pytest

from trainer.config.training_config import TrainingConfig
from trainer.preflight import Hardware, check


@pytest.mark.parametrize(("device", "faults"), [("cpu", ["/checkpoint/async_save"]), ("cuda", [])])
def test_async_saves_need_a_gpu(device: str, faults: list[str]) -> None:
    config = TrainingConfig.model_validate({"device": device, "checkpoint": {"async_save": True}})
    found = check(config, Hardware(nodes=1, gpus_per_node=1))
    assert [one.pointer for one in found if "background" in one.message] == faults
