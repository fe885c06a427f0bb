"""Checks of a config, made at submission and again before torch is imported. No torch.

Every finding's pointer is one into the training config.
"""

from trainer.config import TrainingConfig
from trainer.preflight import base, data
from trainer.preflight.finding import Finding, Suggestion
from trainer.preflight.hardware import Hardware

__all__ = ["Finding", "Hardware", "Suggestion", "check"]


def check(config: TrainingConfig, hardware: Hardware) -> list[Finding]:  # noqa: ARG001
    """All findings about a config that would run on this hardware."""
    return [*data.check(config), *base.check(config)]
