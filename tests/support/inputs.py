"""A model and packed data that pass the checks."""

from pathlib import Path
from typing import Any

from tests.support import packed_data


def make_inputs(data_dir: Path) -> dict[str, Any]:
    """Make a model and packed data that pass the checks, and return the body of a job that uses them."""
    inputs = data_dir / "inputs"
    (inputs / "model").mkdir(parents=True, exist_ok=True)
    (inputs / "model" / "config.json").write_text("{}")
    (inputs / "model" / "model.safetensors").touch()
    if not (inputs / "packed").exists():
        packed_data.make_dataset(inputs / "packed", tokenizer=str(inputs / "model"))
    return {
        "name": "test",
        "config": "cpu-tiny",
        "overrides": [f"hf_model_path={inputs / 'model'}"],
        "inputs": {"packed_parquet": str(inputs / "packed")},
    }
