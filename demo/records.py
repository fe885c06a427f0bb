"""Chat records from the docstrings of Python's standard library: questions about its objects."""

import contextlib
import importlib
import inspect
import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Importing these modules opens windows, prints, or imports modules that may not be installed.
EXCLUDED = {
    "antigravity",
    "this",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtle",
    "turtledemo",
    "test",
    "ensurepip",
}
MIN_CHARACTERS, MAX_CHARACTERS = 20, 1200

Record = dict[str, list[dict[str, str]]]


def write(path: Path) -> int:
    """Write the records as JSON lines, always the same in the same order. Returns their number."""
    records = list(stdlib_records())
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return len(records)


def stdlib_records() -> Iterator[Record]:
    """Yield a record for each documented public function, class and method; each docstring once."""
    seen: set[str] = set()
    for module in _modules():
        for name, thing in _documented(module):
            answer = _answer(thing)
            if answer and answer not in seen:
                seen.add(answer)
                yield _record(f"What does {name} do?", answer)


def _record(question: str, answer: str) -> Record:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _modules() -> Iterator[ModuleType]:
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or name in EXCLUDED:
            continue
        with contextlib.suppress(ImportError), contextlib.redirect_stdout(io.StringIO()), _quiet():
            yield importlib.import_module(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _documented(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_") or not (inspect.isroutine(thing) or inspect.isclass(thing)):
            continue
        yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            for method, function in sorted(vars(thing).items()):
                if not method.startswith("_") and callable(function):
                    yield f"{module.__name__}.{name}.{method}", function


def _answer(thing: Any) -> str | None:
    """Return the docstring, cut after a paragraph if it is long."""
    doc = getattr(thing, "__doc__", None)
    text = inspect.cleandoc(doc) if isinstance(doc, str) else ""
    while len(text) > MAX_CHARACTERS and "\n\n" in text:
        text = text.rpartition("\n\n")[0]
    return text if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS else None
