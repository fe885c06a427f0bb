"""Read a blend as NVIDIA's data_prep has it.

{"datasets": [{"name": ..., "path": ..., "subset": ..., "split": ..., "weight": ...}]}; only path is required.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from trainer import bounded_json
from trainer.dataset.files import Meter, MeteredFile
from trainer.packing.sources.source import BadSource, as_bad_source
from trainer.quoting import printable

MAX_BLEND = 1 << 20
MAX_DATASETS = 1000
MAX_WEIGHT = 1000
BEGINNING = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"datasets"')

Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class BlendDataset(BaseModel):
    """One dataset of a blend."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: Text = Field(description="A file, directory or pattern, relative to the blend; or hf://owner/name.")
    name: Text | None = None
    subset: Text | None = Field(None, description="Of a dataset of the hub.")
    split: Text | None = Field(None, description="Of a dataset of the hub; train if it is not set.")
    weight: float = Field(1.0, ge=0, le=MAX_WEIGHT, description="How often each record is read.")


class _Blend(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    datasets: list[BlendDataset] = Field(min_length=1, max_length=MAX_DATASETS)


def datasets_of(path: Path) -> list[BlendDataset] | None:
    """Return the datasets of a blend; None if a file is not one. Raises BadSource."""
    name = printable(path)
    with as_bad_source(name), MeteredFile(path, Meter()) as file:
        text = file.read(MAX_BLEND + 1)
    try:
        value = bounded_json.parse(text.decode("utf-8-sig")) if len(text) <= MAX_BLEND else None
    except ValueError as error:
        if BEGINNING.match(text):
            raise BadSource(f"{name} is a blend, but not JSON: {error}. Correct it.") from None
        return None
    if value is None and BEGINNING.match(text):
        raise BadSource(f"{name} is a blend of over {MAX_BLEND >> 20} MiB. Name directories in it.")
    return _validated(value, name) if isinstance(value, dict) and "datasets" in value else None


def _validated(value: object, name: str) -> list[BlendDataset]:
    try:
        return _Blend.model_validate(value).datasets
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = printable(".".join(map(str, first["loc"])))[:200]
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(BlendDataset.model_fields if len(first["loc"]) > 1 else _Blend.model_fields)
            raise BadSource(f"{name}: unknown key {where}. Known are {allowed}.") from None
        raise BadSource(f"{name}: {where}: {first['msg']}.") from None
