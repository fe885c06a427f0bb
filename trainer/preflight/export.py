"""Check an export: it needs one process, one complete checkpoint, and the base model of the training run."""

from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoints import is_complete
from trainer.config.training_config import ExportConfig, TrainingConfig
from trainer.preflight import base_model
from trainer.preflight.finding import INSPECTED_THERE, ON_CLUSTER_ONLY, Finding, finding
from trainer.preflight.hardware import Hardware

POINTER = "/export/checkpoint"


def check(
    config: TrainingConfig, export: ExportConfig, hardware: Hardware, *, files: bool = True
) -> Iterator[Finding]:
    """Return findings about an export. files: whether this machine can read the files of the config."""
    if hardware.gpus != 1:
        message = f"An export is one process, and {hardware.gpus} were requested."
        yield finding("error", "not_alone", "/export", message, "Request one node with one GPU.")
    yield from base_model.check_export(config, files=files)
    if not files:
        message = f"{export.checkpoint} {ON_CLUSTER_ONLY}."
        yield finding("unverified", "unseen_checkpoint", POINTER, message, INSPECTED_THERE)
    elif not base_model.holds(lambda: is_complete(Path(export.checkpoint))):
        message = f"{export.checkpoint} is not a complete checkpoint{base_model.reason(export.checkpoint)}."
        hint = "Name one iter_* directory with all of its files."
        yield finding("error", "bad_checkpoint", POINTER, message, hint)
