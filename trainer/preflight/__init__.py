"""Checks of a config, made at submission and again before torch is imported. No torch.

Every finding's pointer is one into the training config. The config's sections have no faults: see
trainer.sections, which comes first.
"""

from trainer.config import TrainingConfig
from trainer.effective import Effective
from trainer.preflight import base, data, lengths, memory, shape, strategies
from trainer.preflight.finding import Finding, Suggestion
from trainer.preflight.hardware import Hardware
from trainer.preflight.memory import Estimate
from trainer.preflight.shape import fit

__all__ = ["Estimate", "Finding", "Hardware", "Suggestion", "check", "fit", "memory_of"]


def check(config: TrainingConfig, hardware: Hardware) -> list[Finding]:
    """All findings about a config that would run on this hardware."""
    effective = Effective(config)
    estimate = memory.estimate(effective, hardware)
    report = data.check(config, global_batch_size=effective.count("train.global_batch_size", 0) or None)
    records = report.inspection.records if report.inspection else None
    return [
        *report.findings,
        *base.check(config),
        *shape.check(effective, hardware),
        *lengths.check(effective),
        *memory.check(effective, hardware, estimate),
        *strategies.check(effective, hardware, records=records, estimate=estimate),
    ]


def memory_of(config: TrainingConfig, hardware: Hardware) -> Estimate | None:
    """What one GPU would hold, in GiB; None where the model's sizes are not known."""
    return memory.estimate(Effective(config), hardware)
