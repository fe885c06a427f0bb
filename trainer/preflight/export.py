"""What an export needs: one process, one complete checkpoint, and the base model that it was trained from."""

from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoints import is_complete
from trainer.config.training_config import ExportConfig, TrainingConfig
from trainer.preflight import base
from trainer.preflight.finding import LOOKED_AT_THERE, NOT_SEEN, Finding, finding
from trainer.preflight.hardware import Hardware

POINTER = "/export/checkpoint"


def check(
    config: TrainingConfig, export: ExportConfig, hardware: Hardware, *, files: bool = True
) -> Iterator[Finding]:
    """files: whether the files that the config names are seen from here."""
    if hardware.gpus != 1:
        message = f"An export is one process; {hardware.gpus} were asked for."
        yield finding("error", "not_alone", "/export", message, "Ask for one node with one GPU.")
    yield from base.check_export(config, files=files)
    if not files:
        message = f"{export.checkpoint} {NOT_SEEN}."
        yield finding("unverified", "unseen_checkpoint", POINTER, message, LOOKED_AT_THERE)
    elif not base.seen(lambda: is_complete(Path(export.checkpoint))):
        message = f"{export.checkpoint} is not a complete checkpoint."
        hint = "Name one iter_* directory, with all of its files."
        yield finding("error", "bad_checkpoint", POINTER, message, hint)
