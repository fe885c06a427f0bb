"""One fine-tuning run, from its config to its end marker."""

import os
import tempfile
from pathlib import Path
from typing import Any

from trainer.bridge import compat, cpu_patches
from trainer.bridge.base_weights import reject_missing_weights
from trainer.checkpoints import Incomplete, is_complete, iteration_directory
from trainer.config.training_config import TrainingConfig
from trainer.event_writer import EventWriter
from trainer.events import Finished, Stopped


def train(config: TrainingConfig, events: EventWriter) -> None:
    """Run to the end, and write the last event: finished or stopped. Whatever goes wrong is raised."""
    compat.install()
    # Bridge's own choice is in the container_key, which need not be there on a node, or be writable.
    os.environ.setdefault("MEGATRON_CONFIG_LOCK_DIR", f"{tempfile.gettempdir()}/sft-locks-{os.getuid()}")
    if config.device == "cpu":
        cpu_patches.prepare()
    from megatron.bridge.training.finetune import finetune
    from megatron.bridge.training.gpt_step import forward_step

    compat.keep_compiled_helpers()
    reject_missing_weights()
    from trainer.bridge import validation
    from trainer.bridge.callbacks import Report
    from trainer.bridge.container import build

    if config.device == "cpu":
        cpu_patches.install()
    container = build(config)
    container.train.exit_signal_handler = True  # how a wish to stop reaches Bridge: see Report
    validation.install(container.validation.eval_iters)
    report = Report(events, is_reporter=is_reporter(), world_size=world_size())
    report.install()
    try:
        finetune(container, forward_step, callbacks=[report])
    except SystemExit:
        # All ranks stop when one has heard the wish, which need not have been this one.
        report.stopping = report.stopping or events.stop_reason()
        if report.stopping is None:
            raise
    _conclude(config, events, report)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_reporter() -> bool:
    return int(os.environ.get("RANK", "0")) == world_size() - 1


def _conclude(config: TrainingConfig, events: EventWriter, report: Any) -> None:
    iteration = report.saved_iteration
    if not report.is_reporter:
        return
    if report.stopping is not None:
        events.end(Stopped(step=report.last_step, iteration=iteration, reason=report.stopping))
        return
    if iteration is not None and not is_complete(_path(config, iteration)):
        raise Incomplete(f"The checkpoint of iteration {iteration} is not complete on disk.")
    events.end(Finished(step=report.last_step, iteration=iteration))


def _path(config: TrainingConfig, iteration: int) -> Path:
    return iteration_directory(Path(str(config.checkpoint["save"])), iteration)
