"""Decide whether there are too many bad records, and report them in words."""

from pathlib import Path

from trainer.packing.bad_records import RecordPlace, Tally

UNITS = {".parquet": "row", ".pq": "row", ".json": "record"}


class BadRecords(ValueError):
    """Too many records are bad, or none can be trained on. The message lists reasons and places."""

    def __init__(self, message: str, tally: Tally) -> None:
        super().__init__(message)
        self.tally = tally


def require_good(records: int, sequences: int, tally: Tally, most: float) -> None:
    """Raise BadRecords if more than a share `most` of `records` is bad, or if nothing is left to train on."""
    bad = tally.counts.total()
    if bad and bad / records > most:
        message = (
            f"{bad:,} of {records:,} records are bad ({bad / records:.1%}), and max_bad_share is {most:g}. "
            "Correct the records below, or raise max_bad_share."
        )
        raise BadRecords(f"{message}\n{table(tally)}", tally)
    if not sequences:
        message = f"None of {records:,} records can be trained on. Name other files."
        raise BadRecords("\n".join(filter(None, (message, table(tally)))), tally)


def table(tally: Tally) -> str:
    """Return a line for each reason, most frequent first, and below it the first places."""
    lines = []
    for reason, count in tally.most_common():
        lines.append(f"  {count:>9,}  {reason}")
        lines += [f"             {_where(place)}: {text}" for place, text in tally.first[reason]]
    return "\n".join(lines)


def _where(place: RecordPlace) -> str:
    return f"{place.source}, {UNITS.get(Path(place.source).suffix, 'line')} {place.number}"
