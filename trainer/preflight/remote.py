"""`python -m trainer.preflight.remote`: inspect files where they are, for a service that does not see them.

A request comes as JSON on stdin, the answer goes as JSON to stdout. Where the service sees the files it
calls `inspect` itself.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter

from trainer.config.section_checks import faults
from trainer.config.training_config import TrainingConfig, is_local
from trainer.dataset import Packing
from trainer.preflight import Finding, Hardware, check
from trainer.preflight.data import POINTER, SAMPLE_SECONDS, Job, Report, examine
from trainer.preflight.finding import finding


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    roots: list[Path]
    """Where everything that is named has to lie, symlinks resolved."""


class ConfigRequest(_Request):
    """Whether a run with this config can begin on this hardware."""

    seconds: ClassVar[float] = SAMPLE_SECONDS

    kind: Literal["config"] = "config"
    config: TrainingConfig
    hardware: Hardware

    def paths(self) -> list[tuple[str, str]]:
        return self.config.client_paths()


class DataRequest(_Request):
    """What packed data hold, and whether they fit. What is None is not checked."""

    kind: Literal["data"] = "data"
    path: str
    seq_length: int | None = None
    global_batch_size: int | None = None
    hf_model_path: str | None = None
    full: bool = False
    """Read every row, as far as the time allows."""
    seconds: float = SAMPLE_SECONDS

    def paths(self) -> list[tuple[str, str]]:
        model = self.hf_model_path
        named = [("/hf_model_path", model)] if model and is_local(model) else []
        return [(POINTER, self.path), *named]


Request = Annotated[ConfigRequest | DataRequest, Discriminator("kind")]
_REQUEST: TypeAdapter[ConfigRequest | DataRequest] = TypeAdapter(Request)


class SplitView(BaseModel):
    shards: int
    rows: int
    tokens: int


class Counts(BaseModel):
    """Packed data in numbers: those of all splits together."""

    shards: int
    rows: int = Field(description="Packs, as the footers of the shards count them.")
    tokens: int
    tokens_exact: bool = Field(description="False where footers lack statistics: then it is an estimate.")
    trained_token_share: float | None = Field(description="Of the rows read; null where none were.")
    longest_pack: int | None = Field(description="Tokens, among the rows read; null where none were.")
    rows_read: int
    bytes_read: int
    packing: Packing | None = Field(description="What is noted beside the data about how they were packed.")
    splits: dict[str, SplitView]


class Seen(BaseModel):
    """What there is to say. Pointers lead into the training config."""

    findings: list[Finding]
    data: Counts | None = None
    """What a DataRequest asked for; None where one of its paths is refused."""


def inspect(request: ConfigRequest | DataRequest) -> Seen:
    """Look at what a request names, on this machine's file system; at nothing if a path of it is refused."""
    if outside := list(_outside(request)):
        return Seen(findings=outside)
    if isinstance(request, DataRequest):
        return _of_data(request)
    return Seen(findings=list(_invalid(request.config)) or check(request.config, request.hardware))


def _outside(request: ConfigRequest | DataRequest) -> Iterator[Finding]:
    roots = [os.path.realpath(root) for root in request.roots]
    for where, path in request.paths():
        real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a loop
        if not any(real.is_relative_to(root) for root in roots):
            message = f"{path!r} leads, its symlinks resolved, to no path that the cluster allows."
            hint = f"Allowed: {', '.join(str(root) for root in request.roots) or 'none'}."
            yield finding("error", "path_not_allowed", where, message, hint)


def _invalid(config: TrainingConfig) -> Iterator[Finding]:
    """What only the model's own config.json shows to be wrong: it tells which recipe a run gets."""
    for fault in faults(config):
        hint = fault.hint or "GET /v1/schema lists what may be set."
        yield finding("error", "invalid_config", fault.pointer, fault.detail, hint)


def _of_data(request: DataRequest) -> Seen:
    job = Job(request.seq_length, request.global_batch_size, request.hf_model_path)
    report = examine(Path(request.path), job, full=request.full, seconds=request.seconds)
    return Seen(findings=report.findings, data=_counts(report))


def _counts(report: Report) -> Counts:
    found = report.inspection
    splits = found.splits if found else {}
    return Counts(
        shards=sum(split.shards for split in splits.values()),
        rows=sum(split.rows for split in splits.values()),
        tokens=sum(split.tokens for split in splits.values()),
        tokens_exact=found is not None and found.tokens_exact and not found.unread_shards,
        trained_token_share=found.trained_token_share if found else None,
        longest_pack=found.longest_pack if found and found.rows_read else None,
        rows_read=found.rows_read if found else 0,
        bytes_read=found.meter.bytes_read if found else 0,
        packing=report.packing,
        splits={name: SplitView(**vars(split)) for name, split in splits.items()},
    )


def main() -> None:
    request = _REQUEST.validate_json(sys.stdin.buffer.read())
    # In ASCII: the other side may take the bytes for anything.
    json.dump(inspect(request).model_dump(mode="json"), sys.stdout)


if __name__ == "__main__":
    main()
