"""Records that cannot be packed: why, how many, and where the first of them are."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from trainer.quoting import printable

PLACES_KEPT = 5
MAX_MESSAGE = 500
"""Characters."""


class BadReason(StrEnum):
    """Why a record is left out. The values are part of the manifest and of a job's failure."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_LONG = "too_long"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_FORMAT = "unknown_format"
    NO_MESSAGES = "no_messages"
    BAD_MESSAGE = "bad_message"
    BAD_CONTENT = "bad_content"
    BAD_TOOL_CALL = "bad_tool_call"
    BAD_TOOLS = "bad_tools"
    LOST_TOOLS = "lost_tools"
    LONE_SURROGATE = "lone_surrogate"
    TEMPLATE_ERROR = "template_error"
    TEMPLATE_MISMATCH = "template_mismatch"
    NOTHING_TRAINED = "nothing_trained"
    CUT_BEFORE_ANSWER = "cut_before_answer"


class BadRecord(ValueError):
    """A record cannot be packed. The message says why, for a person, and may quote the record."""

    def __init__(self, reason: BadReason, message: str) -> None:
        super().__init__(printable(message[:MAX_MESSAGE])[:MAX_MESSAGE])
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class RecordPlace:
    """Where a record is: its source, and its line, row or index, from 1."""

    source: str
    number: int


@dataclass
class Tally:
    """Bad records by reason, with the first places of each."""

    counts: Counter[BadReason] = field(default_factory=Counter)
    first: dict[BadReason, list[tuple[RecordPlace, str]]] = field(default_factory=dict)

    def add(self, place: RecordPlace, error: BadRecord) -> None:
        self.counts[error.reason] += 1
        self._keep(error.reason, [(place, str(error))])

    def merge(self, later: "Tally") -> None:
        """Add what was counted in records that follow those of this tally."""
        self.counts += later.counts
        for reason, places in later.first.items():
            self._keep(reason, places)

    def _keep(self, reason: BadReason, places: list[tuple[RecordPlace, str]]) -> None:
        kept = self.first.setdefault(reason, [])
        kept += places[: PLACES_KEPT - len(kept)]

    def as_dict(self) -> dict[str, Any]:
        """Return the most frequent reason first, as the manifest has it."""
        return {
            reason: {
                "records": count,
                "first": [
                    {"source": place.source, "number": place.number, "message": message}
                    for place, message in self.first[reason]
                ],
            }
            for reason, count in self.most_common()
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """Return what `as_dict` returned as a tally."""
        tally = cls()
        for reason, entry in found.items():
            tally.counts[BadReason(reason)] = entry["records"]
            tally.first[BadReason(reason)] = [
                (RecordPlace(first["source"], first["number"]), first["message"]) for first in entry["first"]
            ]
        return tally

    def most_common(self) -> list[tuple[BadReason, int]]:
        """Return reasons and counts, highest count first, whatever the order of the records."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
