"""What docs/development.md asks of the code, where a program can check it. Import contracts do the rest."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.trainer_runs import PROJECT

PACKAGES = ("api", "worker", "trainer", "cli", "demo", "bench")
MAX_MODULE, MAX_FUNCTION = 400, 30
# Split, so that this file has none of them.
OLD_WORDS = [
    word.replace("_", "")
    for word in (
        "wi_sh", "ane_w", "heed_ed", "mend_ed", "past its t_ime", "put o_ff", "in va_in", "for ev_er",
        "taken i_n", "worn ou_t",
    )
]  # fmt: skip
TEXTS = (".py", ".md", ".j2", ".sh", ".toml", ".yml", ".yaml", ".conf", ".in", ".example")
NOT_OURS = ("docs/evidence", "tests/hub", "tests/trainer/failures/samples", "LICENSE")


def modules(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((PROJECT / package).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def test_modules_fit_in_a_head() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in modules(*PACKAGES)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE} == {}


def test_functions_do_one_thing() -> None:
    long = {
        f"{name_of(path)}:{one.name}": lines
        for path in modules(*PACKAGES)
        for one in functions(path)
        if (lines := _lines_of(one)) > MAX_FUNCTION
    }
    assert long == {}


def _lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, signature and docstring included."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_worker_has_few_packages_and_no_flat_modules() -> None:
    worker = PROJECT / "worker"
    packages = {path.name for path in worker.iterdir() if path.is_dir() and path.name != "__pycache__"}
    flat = {path.stem for path in worker.glob("*.py")}
    assert len(packages) <= 12
    assert flat == {"__init__", "app", "tasks", "settings", "errors", "states", "clock", "field_errors"}


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in modules(*PACKAGES):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_function_is_named_for_a_glance() -> None:
    names = Counter(one.name for path in modules(*PACKAGES) for one in functions(path))
    assert names["look"] == 0


WRITES = re.compile(
    r"update\((Job|Attempt)\)|delete\((Job|Attempt)\)|session\.add\((Job|Attempt|job|attempt)\b|(?<!\w)Attempt\(job_id="
)


def test_one_module_writes_jobs_and_attempts() -> None:
    writers = {name_of(path) for path in modules("worker", "api", "cli") if WRITES.search(path.read_text())}
    assert writers == {"worker/jobs/transitions.py"}


def test_one_module_names_the_files_of_a_run() -> None:
    names = re.compile(
        r'"(events\.jsonl|end\.json|secrets\.sh|job\.log|rank-|run\.json|pid\.json|exit\.json|attempts)"'
    )
    users = {
        name_of(path)
        for path in modules("worker", "trainer", "api", "cli")
        if names.search(_without_docstrings(path))
    }
    assert users - {"worker/jobs/views.py"} == {"trainer/run_layout.py"}  # links of a job are URLs


def _without_docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body[0] = ast.Expr(ast.Constant(None))
    return ast.unparse(tree).replace("'", '"')


@pytest.mark.parametrize("word", OLD_WORDS)
def test_the_field_has_other_words(word: str) -> None:
    pattern = re.compile(rf"\b{word}(es|ed|ing|s)?\b", re.IGNORECASE)
    found = [name_of(path) for path in _texts() if pattern.search(path.read_text(errors="replace"))]
    assert found == []


def _texts() -> Iterator[Path]:
    top = [path for path in PROJECT.iterdir() if path.is_file()]
    folders = (*PACKAGES, "client", "docs", "migrations", "requirements", "tests", ".ci")
    below = [path for folder in folders for path in (PROJECT / folder).rglob("*") if path.is_file()]
    for path in sorted(top + below):
        is_text = path.suffix in TEXTS or path.name.startswith(("Makefile", "Dockerfile", "run"))
        if is_text and not name_of(path).startswith(NOT_OURS):
            yield path
