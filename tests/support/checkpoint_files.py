"""Checkpoints on disk in the format of Megatron-Bridge."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path

LENGTH = 100


@dataclass
class Piece:
    """Equivalent of torch.distributed.checkpoint's _StorageInfo."""

    relative_path: str
    offset: int
    length: int


@dataclass
class Index:
    """Equivalent of torch.distributed.checkpoint's Metadata."""

    storage_data: dict[object, Piece] = field(default_factory=dict)


def save(directory: Path, iteration: int, *, without: str | None = None) -> Path:
    path = directory / f"iter_{iteration:07d}"
    path.mkdir(parents=True)
    index = Index({name: Piece(name, 40, LENGTH - 40) for name in ("__0_0.distcp", "__0_1.distcp")})
    contents = {
        ".metadata": pickle.dumps(index),
        "metadata.json": b"{}",
        "run_config.yaml": b"",
        "train_state.pt": b"",
    }
    contents |= {"__0_0.distcp": b"x" * LENGTH, "__0_1.distcp": b"x" * LENGTH}
    for name, text in contents.items():
        if name != without:
            (path / name).write_bytes(text)
    return path
