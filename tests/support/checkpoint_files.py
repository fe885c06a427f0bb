"""Checkpoints on disk in the format of Megatron-Bridge."""

from pathlib import Path

from tests.support.torch_files import BACKEND, RUN_CONFIG, index, plain

LENGTH = 100


def save(directory: Path, iteration: int, *, without: str | None = None) -> Path:
    path = directory / f"iter_{iteration:07d}"
    path.mkdir(parents=True)
    names = ("__0_0.distcp", "__0_1.distcp")
    contents = {
        ".metadata": index({name: (name, 40, LENGTH - 40) for name in names}),
        "metadata.json": BACKEND,
        "run_config.yaml": RUN_CONFIG,
        "train_state.pt": plain({}),
    }
    contents |= dict.fromkeys(names, b"x" * LENGTH)
    for name, text in contents.items():
        if name != without:
            (path / name).write_bytes(text)
    return path
