"""Check that no checkpoint and no model of a config would run code. This comes before any other check."""

from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoint_safety.check import Threat, threats
from trainer.checkpoints import REQUIRED, is_complete, iteration_directory, iterations
from trainer.config.training_config import TrainingConfig
from trainer.preflight.finding import Finding, finding

SAVE = "/checkpoint/save"
# Sections whose paths can be loaded by Bridge, beside the fields of the config itself.
SECTIONS = ("/checkpoint/", "/tokenizer/", "/model/", "/recipe/")
OWN = ("/hf_model_path", "/checkpoint_megatron", "/export/checkpoint")

HINT = (
    "Use files from a source that you trust: checkpoints of Megatron-Bridge 0.6.2, weights in safetensors. "
    "Delete a file if nothing needs it. docs/security.md lists what is allowed."
)


def check(config: TrainingConfig) -> Iterator[Finding]:
    """Yield one finding for each path of a config whose files must not be loaded."""
    for where, path in config.client_paths():
        if where in OWN or where.startswith(SECTIONS):
            yield from _findings(where, path)


def _findings(where: str, path: str) -> Iterator[Finding]:
    try:
        found = _resumable(Path(path)) if where == SAVE else threats(Path(path))
    except (OSError, ValueError):
        return  # other checks report a path that is missing
    if not found:
        return
    worst = min(found, key=lambda threat: threat.is_damage)
    more = f" {len(found) - 1} more files are rejected, too." if len(found) > 1 else ""
    code = "bad_checkpoint" if worst.is_damage else "hostile_checkpoint"
    message = f"{path}: the file {worst.file} {worst.reason}.{more}"
    yield finding("error", code, where, message, HINT)


def _resumable(directory: Path) -> list[Threat]:
    """Return threats in the iteration that a run resumes from: the newest complete one."""
    for iteration in iterations(directory):
        path = iteration_directory(directory, iteration)
        if not all((path / name).is_file() for name in REQUIRED):
            continue
        if found := threats(path):
            return found
        if is_complete(path):
            break
    return []
