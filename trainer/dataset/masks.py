"""Count what loss masks train: signs of a wrong chat template, or of a wrong rule for masks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MIN_SHARE = 0.01
MAX_SHARE = 0.95

# Signs: a row with a smaller share of trained tokens than MIN_SHARE, with a larger one than MAX_SHARE, and
# with a sequence that is trained from its first token.
UNTRAINED, TRAINED, PROMPTS = "untrained", "trained", "prompts"


@dataclass(frozen=True)
class MaskCounts:
    """Counts of rows."""

    tokens: int = 0
    trained: int = 0
    sequences: int = 0
    prompts: int = 0
    """Sequences that are trained from their first token."""
    first: Mapping[str, Any] = field(default_factory=dict)
    """For each sign that was seen the first place: a row of the batch, then `FILE, row N`."""

    def placed(self, path: str, first_row: int) -> "MaskCounts":
        """Return the counts of a batch with places in a file."""
        return replace(
            self, first={sign: f"{path}, row {first_row + row}" for sign, row in self.first.items()}
        )

    def __add__(self, other: "MaskCounts") -> "MaskCounts":
        return MaskCounts(
            self.tokens + other.tokens,
            self.trained + other.trained,
            self.sequences + other.sequences,
            self.prompts + other.prompts,
            {**other.first, **self.first},
        )


def count_masks(lists: Mapping[str, Any], length: Mapping[str, Any], flat: Mapping[str, Any]) -> MaskCounts:
    """Count the masks of a batch without faulty rows: its columns, their lengths and their values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    marks = pc.cast(pc.not_equal(flat["loss_mask"], 0), pa.int64())
    ends = pc.cumulative_sum(length["input_ids"])
    begins = pc.subtract(ends, length["input_ids"])
    before = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(marks)])
    trained = pc.subtract(pc.take(before, ends), pc.take(before, begins))
    share = pc.divide(pc.cast(trained, pa.float64()), length["input_ids"])
    of_row = pc.list_parent_indices(lists["seq_start_id"])
    starts = pc.add(pc.take(begins, of_row), pc.cast(flat["seq_start_id"], pa.int64()))
    prompts = pc.equal(pc.take(marks, starts), 1)
    rows = {
        UNTRAINED: _first(pc.less(share, MIN_SHARE)),
        TRAINED: _first(pc.greater(share, MAX_SHARE)),
        PROMPTS: of_row[place].as_py() if (place := _first(prompts)) is not None else None,
    }
    return MaskCounts(
        tokens=len(marks),
        trained=pc.sum(marks).as_py(),
        sequences=len(starts),
        prompts=pc.sum(prompts).as_py(),
        first={sign: row for sign, row in rows.items() if row is not None},
    )


def _first(hits: Any) -> int | None:
    import pyarrow.compute as pc

    place: int = pc.index(hits, True).as_py()
    return place if place >= 0 else None
