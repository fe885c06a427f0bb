"""Why runs fail: what signs they leave, and for each class its cause and the way out. No torch."""

from trainer.failures.known import FAILURES, Evidence, Failure, Weight, explain, known_as
from trainer.failures.log_patterns import LogMatch, LogTail, clean, match_log, name_of

__all__ = [
    "FAILURES",
    "Evidence",
    "Failure",
    "LogMatch",
    "LogTail",
    "Weight",
    "clean",
    "explain",
    "known_as",
    "match_log",
    "name_of",
]  # fmt: skip
