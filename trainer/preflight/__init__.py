"""Check a config: at submission, and again before the trainer imports torch. No torch.

The pointer of a finding leads into the training config. The checks need a config whose sections are valid:
run trainer.config.section_checks first.
"""

from trainer.config.effective import Effective
from trainer.config.training_config import TrainingConfig
from trainer.preflight import (
    base_model,
    data,
    export,
    hostile,
    lengths,
    links,
    memory,
    saves,
    shape,
    strategies,
)
from trainer.preflight.finding import Finding, Suggestion
from trainer.preflight.hardware import Hardware
from trainer.preflight.memory import Estimate
from trainer.preflight.shape import fit

__all__ = ["Estimate", "Finding", "Hardware", "Suggestion", "check", "fit", "memory_of"]


def check(
    config: TrainingConfig,
    hardware: Hardware,
    *,
    files: bool = True,
    seconds: float = data.SAMPLE_SECONDS,
) -> list[Finding]:
    """Return all findings about a config for this hardware.

    files: whether this machine can read the files that the config names. If not, no file is read, even if
        the path exists here, and each unread file is an `unverified` finding.
    seconds: time limit of reading data.
    """
    threats = _threats(config) if files else []  # nothing else reads the files of these paths
    if config.export:
        return threats or list(export.check(config, config.export, hardware, files=files))
    effective = Effective(config, files=files)
    estimate = memory.estimate(effective, hardware)
    report = _data_report(effective, seconds)
    records = report.inspection.records if report.inspection else None
    return [
        *report.findings,
        *(threats or base_model.check(config, files=files)),
        *shape.check(effective, hardware),
        *lengths.check(effective),
        *saves.check(effective),
        *memory.check(effective, hardware, estimate),
        *strategies.check(effective, hardware, records=records, estimate=estimate),
    ]


def _threats(config: TrainingConfig) -> list[Finding]:
    """Return findings about links that lead out of the roots, else about files that would run code."""
    return list(links.check(config)) or list(hostile.check(config))


def _data_report(effective: Effective, seconds: float) -> data.DatasetReport:
    return data.check(
        effective.config,
        global_batch_size=effective.count("train.global_batch_size", 0) or None,
        context_parallel_size=effective.count("model.context_parallel_size"),
        files=effective.files,
        seconds=seconds,
    )


def memory_of(config: TrainingConfig, hardware: Hardware, *, files: bool = True) -> Estimate | None:
    """Estimate the memory of one GPU, in GiB; None if the model's sizes are unknown. files: as for check.

    None for an export, too: it runs on the CPU.
    """
    if config.export:
        return None
    return memory.estimate(Effective(config, files=files), hardware)
