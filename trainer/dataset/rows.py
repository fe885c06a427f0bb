"""Check rows of packed data. One row is one pack:

input_ids     tokens of its sequences, concatenated
loss_mask     same length; nonzero where the model is trained
seq_start_id  start of each sequence: from 0, ascending, inside the pack
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trainer.dataset.faults import FaultKind
from trainer.dataset.footers import COLUMNS, Limits, not_in_vocabulary
from trainer.dataset.masks import MaskCounts, count_masks

MAX_PACK_TOKENS = 2 << 20
"""Longer packs are neither written nor read; real ones are much shorter."""


@dataclass(frozen=True)
class BadRow:
    """Rows of a batch with the same fault. `row` is the index of the first one."""

    kind: FaultKind
    key: str
    row: int
    detail: str
    count: int


@dataclass(frozen=True)
class BatchSummary:
    """Counts of the rows of a batch, and their faults."""

    rows: int
    sequences: int
    tokens: int
    trained: int
    longest: int
    bad: list[BadRow]
    masks: MaskCounts = field(default_factory=MaskCounts)
    """Of no row if a row cannot be read."""


def inspect_batch(batch: Any, limits: Limits) -> BatchSummary:
    """Check every row of a pyarrow.RecordBatch that has the required columns."""
    import pyarrow.compute as pc

    packs = _Packs(batch)
    rows = packs.rows
    if rows == 0:
        return BatchSummary(0, 0, 0, 0, 0, [])
    bad = list(packs.without_values())
    if not bad:  # the other checks need data without NULL
        bad = [*packs.lengths(limits), *packs.masks(), *packs.starts(), *packs.tokens(limits)]
    if not bad:  # lengths of sequences need valid starts
        bad = list(packs.paddings(limits))
    longest = pc.max(packs.length["input_ids"]).as_py() or 0
    trained = pc.sum(pc.not_equal(packs.flat["loss_mask"], 0)).as_py() or 0
    sequences, tokens = len(packs.flat["seq_start_id"]), len(packs.flat["input_ids"])
    readable = not any(one.kind is FaultKind.ROWS for one in bad)
    masks = count_masks(packs.lists, packs.length, packs.flat) if readable else MaskCounts()
    return BatchSummary(rows, sequences, tokens, trained, longest, bad, masks)


class _Packs:
    """The columns of a batch, flattened, with the length of each row."""

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
        """Rows with NULL in place of a list or a number, and empty packs."""
        import pyarrow.compute as pc

        for name, column in self.lists.items():
            yield from _bad_rows(name, pc.is_null(column), f"{name} is NULL")
            if self.flat[name].null_count:
                hits = pc.is_null(self.flat[name])
                yield self._bad_value(name, hits, f"{name} holds a NULL")
            if name != "loss_mask":  # masks() compares its length
                yield from _bad_rows(name, pc.equal(self.length[name], 0), f"{name} is empty")

    def lengths(self, limits: Limits) -> Iterator[BadRow]:
        """Packs that are too long. Bridge shifts labels by one and so drops each sequence's last token."""
        import pyarrow.compute as pc

        if limits.seq_length is None:
            return
        length = self.length["input_ids"]
        hits = pc.greater(pc.subtract(length, self.length["seq_start_id"]), limits.seq_length)
        for found in _bad_rows("too long", hits, "", FaultKind.TOO_LONG):
            tokens = length[found.row].as_py()
            yield _with_detail(
                found, f"the pack has {tokens} tokens, too long for seq_length {limits.seq_length}"
            )

    def masks(self) -> Iterator[BadRow]:
        import pyarrow.compute as pc

        tokens, marks = self.length["input_ids"], self.length["loss_mask"]
        for found in _bad_rows("mask", pc.not_equal(tokens, marks), ""):
            has, needs = marks[found.row].as_py(), tokens[found.row].as_py()
            yield _with_detail(found, f"loss_mask has {has} entries for {needs} input_ids")
        flat = self.flat["loss_mask"]
        hits = pc.and_(pc.not_equal(flat, 0), pc.not_equal(flat, 1))
        if pc.any(hits).as_py():
            yield self._bad_value("loss_mask", hits, "loss_mask holds {value}; only 0 and 1 are allowed")

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
                yield self._bad_value(name, hits, detail)

    def paddings(self, limits: Limits) -> Iterator[BadRow]:
        """Sequences whose length, without the last token that Bridge drops, is not a multiple."""
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
        multiple = pc.multiply(pc.divide(tokens, limits.piece_multiple), limits.piece_multiple)
        hits = pc.not_equal(tokens, multiple)
        if pc.any(hits).as_py():
            detail = (
                f"the sequence at {{value}} is not padded to a multiple of {limits.piece_multiple} plus one"
            )
            yield self._bad_value("seq_start_id", hits, detail, FaultKind.UNPADDED)

    def tokens(self, limits: Limits) -> Iterator[BadRow]:
        import pyarrow.compute as pc

        flat = self.flat["input_ids"]
        span = pc.min_max(flat).as_py()
        if span["min"] < 0:
            yield self._bad_value(
                "input_ids", pc.less(flat, 0), "token id {value} is negative", FaultKind.VOCABULARY
            )
        if limits.vocab_size is not None and span["max"] >= limits.vocab_size:
            detail = not_in_vocabulary("{value}", limits.vocab_size)
            hits = pc.greater_equal(flat, limits.vocab_size)
            yield self._bad_value("input_ids", hits, detail, FaultKind.VOCABULARY)

    def _bad_value(self, name: str, hits: Any, detail: str, kind: FaultKind = FaultKind.ROWS) -> BadRow:
        """Rows with a value that `hits` marks in the flat column. {value} in `detail` is the first value."""
        import pyarrow.compute as pc

        place = pc.index(hits, True).as_py()
        rows = pc.list_parent_indices(self.lists[name]).filter(hits)
        text = detail.format(value=self.flat[name][place].as_py())
        return BadRow(kind, detail, rows[0].as_py(), text, pc.count_distinct(rows).as_py())


def _bad_rows(key: str, hits: Any, detail: str, kind: FaultKind = FaultKind.ROWS) -> Iterator[BadRow]:
    """Rows that `hits` marks. NULL marks no row."""
    import pyarrow.compute as pc

    count = pc.sum(hits).as_py()
    if count:
        yield BadRow(kind, detail or key, pc.index(hits, True).as_py(), detail, count)


def _with_detail(found: BadRow, detail: str) -> BadRow:
    return BadRow(found.kind, found.key, found.row, detail, found.count)
