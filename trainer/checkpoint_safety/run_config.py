"""Inspect run_config.yaml: Bridge calls whatever its `_target_` keys name.

Bridge 0.6.2 reads it with yaml.safe_load, resolves OmegaConf's interpolations, and instantiates the sections
`model` and `tokenizer`: `_target_` is imported, and called unless `_call_` is false; `_partial_` and `_args_`
change how.
"""

from collections.abc import Iterator
from typing import Any

from trainer.checkpoint_safety.allowed import RUNS_CODE, TARGETS
from trainer.checkpoint_safety.pickles import Hostile, Unreadable
from trainer.quoting import shown

MAX_RUN_CONFIG_BYTES = 512 << 10
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_PLAIN = 4096
"""Characters of a value that is not quoted: one like 1:1:1:1 is a number, which takes quadratic time."""


def scan_run_config(data: bytes) -> None:
    """Check all targets of a run_config.yaml, of at most MAX_RUN_CONFIG_BYTES. Raises Hostile."""
    for value in _values(_parse(data)):
        if isinstance(value, dict):
            _check(value)
        elif isinstance(value, str) and "${" in value:
            raise Hostile("has an interpolation (${...})")


def _parse(data: bytes) -> Any:
    """Parse a text as Bridge does: libyaml reads some texts in another way. Raises Unreadable."""
    try:
        import yaml  # the interpreter of a login node may lack it, and most configs name no checkpoint
    except ImportError as error:
        raise Unreadable("cannot be inspected without PyYAML: install it for this interpreter") from error
    try:
        text = data.decode()
        _check_bounds(text)
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise Unreadable(f"is not plain YAML: {str(error)[:200]}") from error


def _check(node: dict[Any, Any]) -> None:
    target = node.get("_target_")
    if "_target_" in node and (not isinstance(target, str) or target not in TARGETS):
        raise Hostile(f"has the target {shown(target)}, which is not in the list of allowed targets")
    if found := [key for key in RUNS_CODE if node.get(key)]:
        raise Hostile(f"sets {found[0]}, which runs code of the checkpoint's choice")


def _check_bounds(text: str) -> None:
    """Raise ValueError for a text that is too deep, or that has too many values with its aliases expanded."""
    import yaml

    total, inside, sizes = 0, list[tuple[str | None, int]](), dict[str | None, int]()
    for event in yaml.parse(text, yaml.SafeLoader):
        match event:
            case yaml.AliasEvent():
                total += sizes.get(event.anchor, MAX_VALUES)  # inside of its own anchor it has no end
            case yaml.CollectionStartEvent():
                inside.append((event.anchor, total))
                sizes.pop(event.anchor, None)
            case yaml.CollectionEndEvent():
                anchor, before = inside.pop()
                sizes[anchor] = total - before
            case yaml.ScalarEvent():
                sizes[event.anchor] = 1
                if event.tag or (event.style is None and len(event.value) > MAX_PLAIN):
                    raise ValueError("it has tags, or long values without quotes")
        total += isinstance(event, yaml.NodeEvent)
        if total > MAX_VALUES or len(inside) > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_VALUES} values or {MAX_DEPTH} levels")


def _values(content: Any) -> Iterator[Any]:
    """Yield every value and key once, also those that aliases repeat."""
    seen, waiting = set[int](), [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        yield value
        if isinstance(value, dict | list | set | tuple):  # !!set, !!pairs
            seen.add(id(value))
            waiting.extend(value)
        if isinstance(value, dict):
            waiting.extend(value.values())
