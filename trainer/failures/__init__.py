"""Why runs fail: log patterns of failures, and the cause and recovery of each class. No torch."""

from trainer.failures.catalog import FAILURES, Evidence, Failure, Precedence, explain, failure_name
from trainer.failures.log_patterns import LogMatch, LogTail, classify, clean, match_log

__all__ = [
    "FAILURES",
    "Evidence",
    "Failure",
    "LogMatch",
    "LogTail",
    "Precedence",
    "classify",
    "clean",
    "explain",
    "failure_name",
    "match_log",
]  # fmt: skip
