"""What is wrong with rows of packed data. One row is one pack:

input_ids     tokens of its sequences, one after the other
loss_mask     as long: where the model is trained
seq_start_id  where each sequence begins: from 0, ascending, inside the pack
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer.dataset.faults import Kind
from trainer.dataset.footers import COLUMNS, Limits, foreign


@dataclass(frozen=True)
class BadRow:
    """Rows of a batch with the same fault; `row` is the first of them."""

    kind: Kind
    what: str
    row: int
    detail: str
    count: int


@dataclass(frozen=True)
class Batch:
    """Rows that were read, in numbers."""

    rows: int
    sequences: int
    tokens: int
    trained: int
    longest: int
    bad: list[BadRow]


def look(batch: Any, limits: Limits) -> Batch:
    """Check every row of a pyarrow.RecordBatch that has the columns."""
    import pyarrow.compute as pc

    packs = _Packs(batch)
    rows = packs.rows
    if rows == 0:
        return Batch(0, 0, 0, 0, 0, [])
    bad = list(packs.without_values())
    if not bad:  # the others count on there being no NULL
        bad = [*packs.lengths(limits), *packs.masks(), *packs.starts(), *packs.tokens(limits)]
    if not bad:  # lengths of sequences count on sound starts
        bad = list(packs.paddings(limits))
    longest = pc.max(packs.length["input_ids"]).as_py() or 0
    trained = pc.sum(pc.not_equal(packs.flat["loss_mask"], 0)).as_py() or 0
    sequences, tokens = len(packs.flat["seq_start_id"]), len(packs.flat["input_ids"])
    return Batch(rows, sequences, tokens, trained, longest, bad)


class _Packs:
    """The columns of a batch, flat and with the length of each row."""

    def __init__(self, batch: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.rows = batch.num_rows
        self.lists = {name: batch.column(name) for name in COLUMNS}
        self.length = {name: pc.cast(pc.list_value_length(c), pa.int64()) for name, c in self.lists.items()}
        self.flat = {name: pc.list_flatten(column) for name, column in self.lists.items()}
        if pa.types.is_boolean(self.flat["loss_mask"].type):
            self.flat["loss_mask"] = pc.cast(self.flat["loss_mask"], pa.int8())

    def without_values(self) -> Iterator[BadRow]:
        """NULL where a list or a number should be; empty packs."""
        import pyarrow.compute as pc

        for name, column in self.lists.items():
            yield from _bad(name, pc.is_null(column), f"{name} is NULL")
            if self.flat[name].null_count:
                hits = pc.is_null(self.flat[name])
                yield self._of_value(name, hits, f"{name} holds a NULL")
            if name != "loss_mask":  # its length is compared anyhow
                yield from _bad(name, pc.equal(self.length[name], 0), f"{name} is empty")

    def lengths(self, limits: Limits) -> Iterator[BadRow]:
        """Bridge shifts labels by one inside each sequence, so that each costs its last token."""
        import pyarrow.compute as pc

        if limits.seq_length is None:
            return
        length = self.length["input_ids"]
        hits = pc.greater(pc.subtract(length, self.length["seq_start_id"]), limits.seq_length)
        for found in _bad("too long", hits, "", Kind.TOO_LONG):
            tokens = length[found.row].as_py()
            yield _with(found, f"the pack has {tokens} tokens, too long for seq_length {limits.seq_length}")

    def masks(self) -> Iterator[BadRow]:
        import pyarrow.compute as pc

        tokens, marks = self.length["input_ids"], self.length["loss_mask"]
        for found in _bad("mask", pc.not_equal(tokens, marks), ""):
            has, needs = marks[found.row].as_py(), tokens[found.row].as_py()
            yield _with(found, f"loss_mask has {has} entries for {needs} input_ids")
        flat = self.flat["loss_mask"]
        hits = pc.and_(pc.not_equal(flat, 0), pc.not_equal(flat, 1))
        if pc.any(hits).as_py():
            yield self._of_value("loss_mask", hits, "loss_mask holds {value}, and not 0 or 1 alone")

    def starts(self) -> Iterator[BadRow]:
        import pyarrow as pa
        import pyarrow.compute as pc

        name = "seq_start_id"
        flat = pc.cast(self.flat[name], pa.int64(), safe=False)
        rows = pc.list_parent_indices(self.lists[name])
        same = pc.fill_null(pc.equal(pc.pairwise_diff(rows), 0), False)
        first = pc.and_(pc.invert(same), pc.not_equal(flat, 0))
        falling = pc.and_(same, pc.fill_null(pc.less_equal(pc.pairwise_diff(flat), 0), False))
        outside = pc.greater_equal(flat, pc.take(self.length["input_ids"], rows))
        for hits, detail in (
            (first, "seq_start_id begins with {value}, not with 0"),
            (falling, "seq_start_id does not ascend: {value} is not above the entry before it"),
            (outside, "seq_start_id {value} does not lie inside the pack"),
        ):
            if pc.any(hits).as_py():
                yield self._of_value(name, hits, detail)

    def paddings(self, limits: Limits) -> Iterator[BadRow]:
        """Sequences whose tokens, less the last one that Bridge shifts away, are no multiple."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if limits.piece_multiple is None:
            return
        rows = pc.list_parent_indices(self.lists["seq_start_id"])
        begins = pc.cast(self.flat["seq_start_id"], pa.int64())
        ends = pc.take(self.length["input_ids"], rows)
        same = pc.equal(rows[1:], rows[:-1])
        ends = pa.concat_arrays([pc.if_else(same, begins[1:], ends[:-1]), ends[-1:]])
        tokens = pc.subtract(pc.subtract(ends, begins), 1)
        whole = pc.multiply(pc.divide(tokens, limits.piece_multiple), limits.piece_multiple)
        hits = pc.not_equal(tokens, whole)
        if pc.any(hits).as_py():
            detail = (
                f"the sequence at {{value}} is not padded to a multiple of {limits.piece_multiple} plus one"
            )
            yield self._of_value("seq_start_id", hits, detail, Kind.UNPADDED)

    def tokens(self, limits: Limits) -> Iterator[BadRow]:
        import pyarrow.compute as pc

        flat = self.flat["input_ids"]
        span = pc.min_max(flat).as_py()
        if span["min"] < 0:
            yield self._of_value(
                "input_ids", pc.less(flat, 0), "token id {value} is negative", Kind.VOCABULARY
            )
        if limits.vocab_size is not None and span["max"] >= limits.vocab_size:
            detail = foreign("{value}", limits.vocab_size)
            hits = pc.greater_equal(flat, limits.vocab_size)
            yield self._of_value("input_ids", hits, detail, Kind.VOCABULARY)

    def _of_value(self, name: str, hits: Any, detail: str, kind: Kind = Kind.ROWS) -> BadRow:
        """Rows with a value that `hits` marks in the flat column; {value} in `detail` is the first."""
        import pyarrow.compute as pc

        place = pc.index(hits, True).as_py()
        rows = pc.list_parent_indices(self.lists[name]).filter(hits)
        text = detail.format(value=self.flat[name][place].as_py())
        return BadRow(kind, detail, rows[0].as_py(), text, pc.count_distinct(rows).as_py())


def _bad(what: str, hits: Any, detail: str, kind: Kind = Kind.ROWS) -> Iterator[BadRow]:
    """The rows that `hits` marks; NULL marks none."""
    import pyarrow.compute as pc

    count = pc.sum(hits).as_py()
    if count:
        yield BadRow(kind, detail or what, pc.index(hits, True).as_py(), detail, count)


def _with(found: BadRow, detail: str) -> BadRow:
    return BadRow(found.kind, found.what, found.row, detail, found.count)
