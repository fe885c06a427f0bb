"""What a request may set about packing. The output depends on it, on the input and on the tokenizer alone."""

import datetime
from math import isclose, lcm
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.checkpoint_safety.hugging_face import MAX_TEMPLATE_BYTES
from trainer.dataset.rows import MAX_PACK_TOKENS
from trainer.packing.algorithms import Algorithm, Fit, parallel_multiple
from trainer.packing.chunks import MaskRule
from trainer.packing.formats import Format
from trainer.packing.sequences import RecordOptions

MAX_RECORDS = (1 << 31) - 1
MAX_RANKS = 1 << 16


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SplitShares(Options):
    """Shares of the records that the splits get. Valid and test get at least one record each if above 0."""

    train: float = Field(default=0.98, gt=0, le=1)
    valid: float = Field(default=0.01, ge=0, lt=1)
    test: float = Field(default=0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _sum_is_one(self) -> Self:
        total = self.train + self.valid + self.test
        if not isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"train, valid and test must sum to 1, and sum to {total:g}")
        return self


class SplitCounts(Options):
    """Numbers of records that the splits get, instead of their shares; null: its share."""

    valid: int | None = Field(default=None, ge=0, le=MAX_RECORDS)
    test: int | None = Field(default=None, ge=0, le=MAX_RECORDS)


class PackOptions(Options):
    """Options of packing."""

    pack_size: int = Field(
        default=4096, ge=2, le=MAX_PACK_TOKENS, description="Tokens of a pack; equals the job's seq_length."
    )
    algorithm: Algorithm = Field(
        default=Algorithm.FIRST_FIT_SHUFFLE, description="How sequences are put into packs."
    )
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="Seed of the order and of the splits.")
    split: SplitShares = Field(default_factory=SplitShares, description="Shares of train, valid and test.")
    split_counts: SplitCounts | None = Field(
        default=None, description="Numbers of records for valid and test, instead of their shares."
    )
    pad_to_multiple: int = Field(
        default=1,
        ge=1,
        le=MAX_PACK_TOKENS,
        description="Pad sequences to a multiple of this too, besides that of the parallel sizes.",
    )
    context_parallel_size: int = Field(default=1, ge=1, le=MAX_RANKS, description="That of the training.")
    tensor_parallel_size: int = Field(default=1, ge=1, le=MAX_RANKS, description="That of the training.")
    sequence_parallel: bool = Field(default=False, description="Whether the training uses it.")
    max_bad_share: float = Field(
        default=0.01, ge=0, le=1, description="Largest share of bad records that packing succeeds with."
    )
    max_rows: int | None = Field(
        default=None, ge=1, le=MAX_RECORDS, description="Read only so many records; without it all."
    )
    max_doc_tokens: int | None = Field(
        default=None,
        ge=2,
        le=MAX_PACK_TOKENS,
        description="Cut sequences to this length too.",
    )
    format: Format = Field(default=Format.AUTO, description="Of the records; `auto` recognizes each.")
    date: datetime.date | None = Field(
        default=None, description="Today, for chat templates that ask (YYYY-MM-DD); null: at the first start."
    )
    mask: MaskRule = Field(default=MaskRule.ASSISTANT, description="Which tokens are trained.")
    chat_template: str | None = Field(
        default=None,
        max_length=MAX_TEMPLATE_BYTES,
        description="Text of a chat template; null: the tokenizer's own.",
    )
    messages_field: str = Field(
        default="messages", min_length=1, max_length=200, description="Field of a record with its messages."
    )
    tools_field: str = Field(
        default="tools", min_length=1, max_length=200, description="Field of a record with its tools."
    )

    used_in: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Pack only records whose field `used_in` is this text, or a list with it.",
    )

    def of_records(self) -> RecordOptions:
        """Return the options that concern single records."""
        return RecordOptions(
            self.format, self.mask, self.chat_template, self.messages_field, self.tools_field,
            min(self.max_doc_tokens or self.pack_size, self.fit(0).longest), self.used_in,
        )  # fmt: skip

    def fit(self, pad_id: int) -> Fit:
        """Return what fits sequences to a pack."""
        return Fit(self.pack_size, self.multiple, pad_id)

    @property
    def multiple(self) -> int:
        """The multiple that the lengths of sequences, without their last token, are padded to."""
        parallel = parallel_multiple(
            self.context_parallel_size, self.tensor_parallel_size, sequence_parallel=self.sequence_parallel
        )
        return lcm(self.pad_to_multiple, parallel)

    @model_validator(mode="after")
    def _a_padded_sequence_has_room(self) -> Self:
        if self.multiple >= self.pack_size:
            raise ValueError(
                f"a pack of {self.pack_size} tokens has no room for a sequence padded to a multiple of "
                f"{self.multiple}: raise pack_size, or lower pad_to_multiple or the parallel sizes"
            )
        return self
