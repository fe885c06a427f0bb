"""Checks of a config, made at submission and again before torch is imported. No torch.

Every finding's pointer is one into the training config. The config's sections have no faults: see
trainer.config.section_checks, which comes first.
"""

from trainer.config.effective import Effective
from trainer.config.training_config import TrainingConfig
from trainer.preflight import base, data, export, lengths, memory, saves, shape, strategies
from trainer.preflight.finding import Finding, Suggestion
from trainer.preflight.hardware import Hardware
from trainer.preflight.memory import Estimate
from trainer.preflight.shape import fit

__all__ = ["Estimate", "Finding", "Hardware", "Suggestion", "check", "fit", "memory_of"]


def check(config: TrainingConfig, hardware: Hardware, *, files: bool = True) -> list[Finding]:
    """All findings about a config that would run on this hardware.

    files: whether the files that it names are seen from here; else none is looked at, whatever lies here
        under the same name, and what would have to be looked at is `unverified`.
    """
    if config.export:
        return list(export.check(config, config.export, hardware, files=files))
    effective = Effective(config, files=files)
    estimate = memory.estimate(effective, hardware)
    size = effective.count("train.global_batch_size", 0) or None
    ranks = effective.count("model.context_parallel_size")
    report = data.check(config, global_batch_size=size, context_parallel_size=ranks, files=files)
    records = report.inspection.records if report.inspection else None
    return [
        *report.findings,
        *base.check(config, files=files),
        *shape.check(effective, hardware),
        *lengths.check(effective),
        *saves.check(effective),
        *memory.check(effective, hardware, estimate),
        *strategies.check(effective, hardware, records=records, estimate=estimate),
    ]


def memory_of(config: TrainingConfig, hardware: Hardware, *, files: bool = True) -> Estimate | None:
    """What one GPU would hold, in GiB; None where the model's sizes are not known. files: as for check.

    None, too, for an export: it is made on the CPU.
    """
    if config.export:
        return None
    return memory.estimate(Effective(config, files=files), hardware)
