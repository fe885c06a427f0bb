"""`python -m trainer.preflight.remote`: inspect files on the cluster, for a service that cannot read them.

Reads a request as JSON from stdin and writes the result as JSON to stdout. A service that can read the files
calls `inspect` directly.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter

from trainer.config.section_checks import section_faults
from trainer.config.training_config import TrainingConfig, is_local
from trainer.dataset import Packing
from trainer.path_roots import is_allowed, limited_to
from trainer.preflight import Finding, Hardware, check, links
from trainer.preflight.data import POINTER, SAMPLE_SECONDS, DataNeeds, DatasetReport, examine
from trainer.preflight.finding import finding
from trainer.preflight.limits import ENVIRONMENT, MEMORY_BYTES, limit_cpu, limit_resources

# Beside the time limit of reading data, for the other files.
GRACE_SECONDS = 5.0


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    roots: list[Path]
    """Every path of the request must be inside one of these, with symlinks resolved."""
    project: str = ""
    """Whose request it is: projects share no process and no result."""


class ConfigRequest(_Request):
    """Check whether a run with this config can begin on this hardware."""

    # The index of a large checkpoint takes half a minute.
    seconds: ClassVar[float] = SAMPLE_SECONDS + 60

    kind: Literal["config"] = "config"
    config: TrainingConfig
    hardware: Hardware

    def paths(self) -> list[tuple[str, str]]:
        return self.config.client_paths()


class DataRequest(_Request):
    """Inspect packed data and check that they fit. Values that are None are not checked."""

    kind: Literal["data"] = "data"
    path: str
    seq_length: int | None = None
    global_batch_size: int | None = None
    hf_model_path: str | None = None
    full: bool = False
    """Read every row, within the time limit."""
    seconds: float = SAMPLE_SECONDS
    """Time limit."""

    def paths(self) -> list[tuple[str, str]]:
        model = self.hf_model_path
        named = [("/hf_model_path", model)] if model and is_local(model) else []
        return [(POINTER, self.path), *named]


Request = Annotated[ConfigRequest | DataRequest, Discriminator("kind")]
REQUEST: TypeAdapter[ConfigRequest | DataRequest] = TypeAdapter(Request)


class SplitView(BaseModel):
    shards: int
    rows: int
    tokens: int


class Counts(BaseModel):
    """Counts of packed data, totals over all splits."""

    shards: int
    rows: int = Field(description="Number of packs, from the footers of the shards.")
    tokens: int
    tokens_exact: bool = Field(description="False if footers have no statistics: then tokens is an estimate.")
    trained_token_share: float | None = Field(
        description="Share of trained tokens in the rows read; null if no row was read."
    )
    longest_pack: int | None = Field(
        description="Tokens of the longest pack among the rows read; null if no row was read."
    )
    rows_read: int
    bytes_read: int
    packing: Packing | None = Field(
        description="Metadata about the packing, from beside the data; null if there is none."
    )
    splits: dict[str, SplitView]


class InspectionResult(BaseModel):
    """The answer to a request. Pointers of findings lead into the training config."""

    findings: list[Finding]
    data: Counts | None = None
    """Counts, for a DataRequest; None if one of its paths is rejected."""


def inspect(request: ConfigRequest | DataRequest) -> InspectionResult:
    """Inspect the paths of a request on this machine. If one path is rejected, no path is read."""
    with limited_to(request.roots):
        if outside := list(_outside_roots(request)):
            return InspectionResult(findings=outside)
        if isinstance(request, DataRequest):
            return _inspect_data(request)
        return InspectionResult(
            findings=list(_config_faults(request.config)) or check(request.config, request.hardware)
        )


def _outside_roots(request: ConfigRequest | DataRequest) -> Iterator[Finding]:
    for where, path in request.paths():
        if not is_allowed(path):
            message = f"{path!r}, with symlinks resolved, is not inside a path that the cluster allows."
            hint = f"Allowed: {', '.join(str(root) for root in request.roots) or 'none'}."
            yield finding("error", "path_not_allowed", where, message, hint)
    save = request.config.checkpoint.get("save") if isinstance(request, ConfigRequest) else None
    if isinstance(save, str) and is_allowed(save) and _is_behind_link(Path(save), request.roots):
        message = (
            f"{save!r} lies behind a link below a path that the cluster allows: no file is served there."
        )
        hint = f"Save to the directory itself: {os.path.realpath(save)!r}."
        yield finding("error", "path_not_allowed", "/checkpoint/save", message, hint)


def _is_behind_link(path: Path, roots: list[Path]) -> bool:
    """Whether a link below the root of a path leads to it; the path of the root may have links."""
    top = max(filter(path.is_relative_to, roots), key=lambda root: len(root.parts), default=None)
    if top is None:
        return False
    return Path(os.path.realpath(path)) != Path(os.path.realpath(top), path.relative_to(top))


def _config_faults(config: TrainingConfig) -> Iterator[Finding]:
    """Faults that only the model's config.json reveals, since it determines the recipe of a run."""
    for fault in section_faults(config):
        hint = fault.hint or "GET /v1/schema lists the keys that a config can set."
        yield finding("error", "invalid_config", fault.pointer, fault.detail, hint)


def _inspect_data(request: DataRequest) -> InspectionResult:
    needs = DataNeeds(request.seq_length, request.global_batch_size, request.hf_model_path)
    report = examine(Path(request.path), needs, full=request.full, seconds=request.seconds)
    leaving = links.check_paths([("/hf_model_path", str(needs.model) if needs.model else None)])
    return InspectionResult(findings=[*leaving, *report.findings], data=_counts(report))


def _counts(report: DatasetReport) -> Counts:
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
    request = REQUEST.validate_json(sys.stdin.buffer.read())
    sys.stdout.write(_inspect_in_child(request))


def _inspect_in_child(request: ConfigRequest | DataRequest) -> str:
    """Inspect within limits of memory and time, and return the result as JSON.

    A file that exceeds them, or holds what no check expected, ends the child: that is a finding.
    """
    os.environ.update(ENVIRONMENT)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _inspect_and_exit(request, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text if status == 0 else InspectionResult(findings=[_failed(request)]).model_dump_json()


def _inspect_and_exit(request: ConfigRequest | DataRequest, writing: int) -> NoReturn:
    try:
        limit_resources()
        limit_cpu(request.seconds + GRACE_SECONDS)
        with os.fdopen(writing, "w") as pipe:
            # json.dump writes ASCII, which the reader decodes correctly with any encoding.
            json.dump(inspect(request).model_dump(mode="json"), pipe)
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def _failed(request: ConfigRequest | DataRequest) -> Finding:
    where, path = next(iter(request.paths()), ("", "The config"))
    seconds = request.seconds + GRACE_SECONDS
    message = (
        f"{path}, or another file of the request, could not be inspected within {MEMORY_BYTES >> 20} MiB and "
        f"{seconds:g} s, or its content is not what was expected."
    )
    return finding("error", "unreadable_file", where, message, "Copy the files again, or name others.")


if __name__ == "__main__":
    main()
