"""Why runs fail: what signs they leave, and for each class its cause and the way out. No torch."""

from trainer.failures.known import FAILURES, Evidence, Failure, Weight, explain, known_as
from trainer.failures.signs import LogTail, Sign, clean, name_of, signs

__all__ = [
    "FAILURES", "Evidence", "Failure", "LogTail", "Sign", "Weight", "clean", "explain",
    "known_as", "name_of", "signs",
]  # fmt: skip
