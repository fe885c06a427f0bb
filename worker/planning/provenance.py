"""The source of each value of a run."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from trainer.config.effective import Effective
from worker.planning.config import Composed

Source = Literal["preset", "config", "override", "argument", "input", "fitted", "recipe", "default"]
SOURCES: dict[str, Source] = {"overrides": "override", "args": "argument", "inputs": "input"}


class Value(BaseModel):
    """One value of a run."""

    value: Any
    source: Source = Field(
        description="Where the value comes from: the preset, the inline config, an override, a passthrough "
        "argument, `inputs`, the plan itself (to fit the GPUs), the model's recipe, or the field's default."
    )


def values(composed: Composed, fitted: set[str], *, recipe: str | None = None) -> dict[str, Value]:
    """Return by dotted key all values that the config or its recipe sets; the rest are Bridge's defaults.

    fitted: dotted keys that the plan has set.
    recipe: name of the recipe; None if the config alone determines it.
    """
    effective = Effective(composed.config, files=False, recipe=recipe)
    found = {key: Value(value=value, source="recipe") for key, value in effective.recipe_values().items()}
    for key, value, given in effective.config_values():
        source = _source(composed, effective.pointer(key)) if given else "default"
        found[key] = Value(value=value, source="fitted" if key in fitted else source)
    return dict(sorted(found.items()))


def _source(composed: Composed, where: str) -> Source:
    part = composed.source(where).split("/")[1]
    return SOURCES.get(part, "config" if composed.inline else "preset")
