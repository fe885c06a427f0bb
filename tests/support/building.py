"""Builds ConfigContainers as a run does, in the trainer's environment, and says what became of them.

Reads cases from stdin and writes all answers as stdout's last line: importing takes longer than hundreds of
cases. `values` are read from what trainer.bridge.container.build returns; `refusal` is what Bridge and
megatron-core say of it with so many GPUs: runtime_config_update (validate() is its end) and process groups.
"""

import contextlib
import importlib
import json
import os
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from trainer.bridge import compat, fallbacks
from trainer.bridge.container import build
from trainer.config.training_config import TrainingConfig


def main() -> None:
    cases = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        lacking = lacks()
        answers = {name: answer(case, lacking) for name, case in cases.items()}
    print(json.dumps({"lacking": lacking, "answers": answers}))


def lacks() -> str | None:
    """Why nothing can be validated here; None if it can."""
    try:
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, OSError, RuntimeError) as error:
        return f"Transformer Engine does not import here: {error}"
    return None


def answer(case: dict[str, Any], lacking: str | None) -> dict[str, Any]:
    config = TrainingConfig.model_validate(case["config"])
    answer: dict[str, Any] = {}
    if "keys" in case:
        with having(case.get("installed")):
            container = build(config)
        answer["values"] = {key: plain(read(container, key)) for key in case["keys"]}
    if "gpus" in case and lacking is None:
        answer["refusal"] = refusal(config, case["gpus"])
    return answer


@contextlib.contextmanager
def having(installed: list[str] | None) -> Iterator[None]:
    """On a machine where of what recipes ask for these packages are installed; None: as it is here."""
    if installed is None:
        yield
        return
    original = fallbacks.is_installed
    fallbacks.is_installed = lambda name: name in installed
    try:
        yield
    finally:
        fallbacks.is_installed = original


def read(container: Any, key: str) -> Any:
    for name in key.split("."):
        container = getattr(container, "peft" if name == "lora" else name)
    return container


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return getattr(value, "name", type(value).__name__)


def refusal(config: TrainingConfig, gpus: int) -> str | None:
    """What Bridge says against a config on so many GPUs."""
    from megatron.bridge.training.config import runtime_config_update

    before = dict(os.environ)
    with world(gpus):
        try:
            container = build(config)
            runtime_config_update(container)
            make_groups(container.model)
        except (AssertionError, ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            os.environ.clear()
            os.environ.update(before)
    return None


@contextlib.contextmanager
def world(gpus: int) -> Iterator[None]:
    """One rank of so many, the others of which are not there: torch's own stand-in for a backend."""
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def make_groups(model: Any) -> None:
    """As megatron-core does first in a run."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=model.tensor_model_parallel_size,
        pipeline_model_parallel_size=model.pipeline_model_parallel_size,
        context_parallel_size=model.context_parallel_size,
        expert_model_parallel_size=model.expert_model_parallel_size,
        expert_tensor_parallel_size=model.expert_tensor_parallel_size,
        create_gloo_process_groups=False,
    )


if __name__ == "__main__":
    compat.install()
    warnings.simplefilter("ignore")
    # Bridge asks the GPU what it is, to say which dispatcher of tokens works there.
    hopper = types.SimpleNamespace(major=9, minor=0, name="NVIDIA H100 80GB HBM3")
    torch.cuda.get_device_properties = lambda *_: hopper
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    main()
