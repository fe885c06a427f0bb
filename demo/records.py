"""Chat records from the docstrings of Python's standard library: what is it, and what does it do?"""

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

# Importing these shows windows, prints, or drags in what may not be installed.
LEFT_OUT = {
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
SHORTEST, LONGEST = 20, 1200

Record = dict[str, list[dict[str, str]]]


def write(path: Path) -> int:
    """Write the records as JSON lines, the same ones in the same order every time; return their number."""
    records = list(stdlib_records())
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return len(records)


def stdlib_records() -> Iterator[Record]:
    """One record for each documented public function, class and method, each docstring once."""
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
        if name.startswith("_") or name in LEFT_OUT:
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
    """The docstring, cut after a paragraph where it is long."""
    doc = getattr(thing, "__doc__", None)
    text = inspect.cleandoc(doc) if isinstance(doc, str) else ""
    while len(text) > LONGEST and "\n\n" in text:
        text = text.rpartition("\n\n")[0]
    return text if SHORTEST <= len(text) <= LONGEST else None
