"""Check how checkpoints are written."""

from collections.abc import Iterator

from trainer.config.effective import Effective
from trainer.preflight.finding import Finding, finding


def check(effective: Effective) -> Iterator[Finding]:
    """Reject async saves without CUDA: the writer process of megatron-core fails, and the run hangs."""
    if effective.config.device == "cpu" and effective.get("checkpoint.async_save"):
        yield finding(
            "error", "invalid_config", effective.pointer("checkpoint.async_save"),
            "Checkpoints can be written in the background only on a GPU.",
            "Omit checkpoint.async_save, or set it to false.",
        )  # fmt: skip
