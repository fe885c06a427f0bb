"""Build ConfigContainers like a run, in the trainer's environment, and report values and rejections.

Reads cases from stdin and writes all answers in the last line of stdout: importing takes longer than hundreds
of cases. `values` are read from the result of trainer.bridge.container.build. `rejection` is the error of
Bridge or megatron-core for a number of GPUs: in runtime_config_update (which ends with validate()) or when
process groups are created.
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
        missing = missing_packages()
        answers = {name: answer(case, missing) for name, case in cases.items()}
    print(json.dumps({"missing": missing, "answers": answers}))


def missing_packages() -> str | None:
    """Why configs cannot be validated here; None if they can."""
    try:
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, OSError, RuntimeError) as error:
        return f"Transformer Engine does not import here: {error}"
    return None


def answer(case: dict[str, Any], missing: str | None) -> dict[str, Any]:
    config = TrainingConfig.model_validate(case["config"])
    answer: dict[str, Any] = {}
    if "keys" in case:
        with having(case.get("installed")):
            container = build(config)
        answer["values"] = {key: plain(read(container, key)) for key in case["keys"]}
    if "gpus" in case and missing is None:
        answer["rejection"] = rejection(config, case["gpus"])
    return answer


@contextlib.contextmanager
def having(installed: list[str] | None) -> Iterator[None]:
    """Pretend that only these optional packages are installed; None: no change."""
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
    """A value as JSON."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return getattr(value, "name", type(value).__name__)


def rejection(config: TrainingConfig, gpus: int) -> str | None:
    """Bridge's error for a config on this number of GPUs; None if Bridge accepts the config."""
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
    """A world with this number of ranks, of which only one exists: torch's fake backend."""
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def make_groups(model: Any) -> None:
    """Create process groups like megatron-core at the start of a run."""
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
    # Bridge reads the type of the GPU to choose a token dispatcher.
    hopper = types.SimpleNamespace(major=9, minor=0, name="NVIDIA H100 80GB HBM3")
    torch.cuda.get_device_properties = lambda *_: hopper
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    main()
