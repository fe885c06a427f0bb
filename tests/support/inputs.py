"""A model and packed data that pass the checks."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import packed_data


def make_inputs(data_dir: Path) -> dict[str, Any]:
    """Make a model and packed data that pass the checks, and return the body of a job that uses them.

    What exists stays as it is: threads may call this while the service reads the files.
    """
    inputs = data_dir / "inputs"
    _make_once(inputs / "model", _write_model)
    _make_once(
        inputs / "packed", lambda path: packed_data.make_dataset(path, tokenizer=str(inputs / "model"))
    )
    return {
        "name": "test",
        "config": "cpu-tiny",
        "overrides": [f"hf_model_path={inputs / 'model'}"],
        "inputs": {"packed_parquet": str(inputs / "packed")},
    }


def _write_model(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").touch()


def _make_once(path: Path, write: Callable[[Path], object]) -> None:
    """Let a directory appear complete. Another thread may be faster."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as made:
        write(Path(made) / path.name)
        try:
            (Path(made) / path.name).rename(path)
        except OSError:
            assert path.is_dir()
