"""Run one fine-tuning job, from its config to its end marker."""

import os
import tempfile
from pathlib import Path
from typing import Any

from trainer.bridge import checkpoint_guard, compat, cpu_patches
from trainer.bridge.base_weights import reject_missing_weights
from trainer.checkpoints import Incomplete, is_complete, iteration_directory
from trainer.config.training_config import TrainingConfig
from trainer.event_writer import EventWriter
from trainer.events import Finished, Stopped


def train(config: TrainingConfig, events: EventWriter) -> None:
    """Train to the end and write the last event: finished or stopped. Errors are raised."""
    _prepare(config)
    from megatron.bridge.training.finetune import finetune
    from megatron.bridge.training.gpt_step import forward_step

    compat.keep_compiled_helpers()
    checkpoint_guard.guard_code()
    reject_missing_weights()
    from trainer.bridge import validation
    from trainer.bridge.callbacks import EventCallback
    from trainer.bridge.container import build

    if config.device == "cpu":
        cpu_patches.install()
    container = build(config)
    container.train.exit_signal_handler = True  # EventCallback passes stop requests as SIGTERM
    validation.install(container.validation.eval_iters)
    callback = EventCallback(events, is_reporter=is_reporter(), world_size=world_size())
    callback.install()
    try:
        finetune(container, forward_step, callbacks=[callback])
    except SystemExit:
        # All ranks stop once one of them has observed the stop request. That may be another rank.
        callback.stop_reason = callback.stop_reason or events.stop_reason()
        if callback.stop_reason is None:
            raise
    _conclude(config, events, callback)


def _prepare(config: TrainingConfig) -> None:
    """Set up what must be in place before Bridge or torch is imported."""
    checkpoint_guard.guard_pickles()
    compat.install()
    # Bridge's default is in the home directory, which may be missing or read-only on a node.
    os.environ.setdefault("MEGATRON_CONFIG_LOCK_DIR", f"{tempfile.gettempdir()}/sft-locks-{os.getuid()}")
    if config.device == "cpu":
        cpu_patches.prepare()


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_reporter() -> bool:
    return int(os.environ.get("RANK", "0")) == world_size() - 1


def _conclude(config: TrainingConfig, events: EventWriter, callback: Any) -> None:
    iteration = callback.saved_iteration
    if not callback.is_reporter:
        return
    if callback.stop_reason is not None:
        events.end(Stopped(step=callback.last_step, iteration=iteration, reason=callback.stop_reason))
        return
    if iteration is not None and not is_complete(_checkpoint_path(config, iteration)):
        raise Incomplete(f"The checkpoint of iteration {iteration} is not complete on disk.")
    events.end(Finished(step=callback.last_step, iteration=iteration))


def _checkpoint_path(config: TrainingConfig, iteration: int) -> Path:
    return iteration_directory(Path(str(config.checkpoint["save"])), iteration)
