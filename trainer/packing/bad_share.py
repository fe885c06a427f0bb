"""Decide whether there are too many bad records, and report them in words."""

from trainer.packing.bad_records import Tally


class TooManyBadRecords(ValueError):
    """Too many records are bad, or none can be trained on. The message lists reasons and places."""

    def __init__(self, message: str, tally: Tally) -> None:
        super().__init__(message)
        self.tally = tally


def require_good(records: int, filtered: int, sequences: int, tally: Tally, most: float) -> None:
    """Raise TooManyBadRecords if a share above `most` is bad, or nothing is left to train on.

    records: that were read. filtered: those of them that used_in left out, which do not count for the share.
    """
    bad, records = tally.counts.total(), records - filtered
    left_out = f" {filtered:,} others were left out by used_in." if filtered else ""
    if bad and bad / records > most:
        message = (
            f"{bad:,} of {records:,} records are bad ({bad / records:.1%}), and max_bad_share is {most:g}."
            f"{left_out} Correct the records below, or raise max_bad_share."
        )
        raise TooManyBadRecords(f"{message}\n{table(tally)}", tally)
    if not sequences:
        message = f"None of {records:,} records can be trained on.{left_out} Name other files."
        raise TooManyBadRecords("\n".join(filter(None, (message, table(tally)))), tally)


def table(tally: Tally) -> str:
    """Return a line for each reason, most frequent first, and below it the first places."""
    lines = []
    for reason, count in tally.most_common():
        lines.append(f"  {count:>9,}  {reason}")
        lines += [
            f"             {place.source}, record {place.number}: {text}"
            for place, text in tally.first[reason]
        ]
    return "\n".join(lines)
