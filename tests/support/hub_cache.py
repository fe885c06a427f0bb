"""A local hub cache with the files of the hub's models that recipes and the trainer read."""

import shutil
from pathlib import Path

from tests.support.trainer_runs import PROJECT
from trainer.config.models import MODELS, NANO

HUB = PROJECT / "tests" / "hub"

# Revisions that Bridge's recipes pin.
REVISIONS = {
    "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16": "b3caaabed0263651a17dc1f2d4ce97e794f76c44",
    "nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16": "dfaf35de3e30f1867dd8dbc38a7fc9fb52d3914f",
}


def make_hub(directory: Path) -> Path:
    """Make a cache of the hub's client with every model of the table; weights are empty files.

    Sizes of Nano and Super are the published sizes (tests/hub). No recipe reads the other config.json files:
    Lightning's recipe uses Nano's sizes, Nano 4B's contains them. Their config.json is a copy of Nano's.
    """
    shutil.copytree(HUB, directory)
    for model in MODELS:
        if model.id in REVISIONS:
            snapshot = _entry(directory, model.id) / "snapshots" / REVISIONS[model.id]
            shutil.copytree(directory_in(directory, NANO), snapshot)
        (directory_in(directory, model.id) / "model.safetensors").touch()
    return directory


def directory_in(hub: Path, model: str) -> Path:
    """Return the directory of a model's files in such a cache."""
    [snapshot] = (_entry(hub, model) / "snapshots").iterdir()
    return snapshot


def _entry(hub: Path, model: str) -> Path:
    return hub / f"models--{model.replace('/', '--')}"
