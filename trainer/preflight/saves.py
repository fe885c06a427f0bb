"""How checkpoints are written."""

from collections.abc import Iterator

from trainer.config.effective import Effective
from trainer.preflight.finding import Finding, finding


def check(effective: Effective) -> Iterator[Finding]:
    """Without CUDA megatron-core's process that writes them fails, and the run waits for it for ever."""
    if effective.config.device == "cpu" and effective.get("checkpoint.async_save"):
        yield finding(
            "error", "invalid_config", effective.pointer("checkpoint.async_save"),
            "Checkpoints can be written in the background only where there is a GPU.",
            "Leave checkpoint.async_save out, or set it to false.",
        )  # fmt: skip
