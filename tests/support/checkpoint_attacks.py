"""`python -m tests.support.checkpoint_attacks DIRECTORY open|guarded`: load hostile files as Bridge does.

It runs in the trainer's environment and prints what became of each attack, as JSON: `ran` where code of the
file was run. That is what happens without the guard.
"""

import io
import json
import multiprocessing
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.opcodes import HIDDEN, array, whole
from tests.support.torch_files import archive


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def attacks(directory: Path, canary: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    import numpy as np
    import torch
    from megatron.bridge.training.model_load_save import load_model_config
    from torch.distributed.checkpoint import FileSystemReader

    bad = Hostile(canary)
    zipped, legacy = directory / "zip.pt", directory / "legacy.pt"
    torch.save(bad, zipped)
    torch.save(bad, legacy, _use_new_zipfile_serialization=False)
    (directory / ".metadata").write_bytes(pickle.dumps(bad))
    np.save(directory / "array.npy", np.array([bad], dtype=object), allow_pickle=True)
    yield "index", FileSystemReader(directory).read_metadata
    yield "object", lambda: torch.load(zipped, weights_only=False)
    yield "legacy object", lambda: torch.load(legacy, weights_only=False)
    yield "object in memory", lambda: torch.load(io.BytesIO(zipped.read_bytes()), weights_only=False)
    yield "forced", lambda: torch.load(zipped)
    yield "numpy", lambda: np.load(directory / "array.npy", allow_pickle=True)
    yield "extra state", lambda: _as_transformer_engine(pickle.dumps(bad))
    yield from _arrays_of_pointers(canary)
    for target in ("torch.os.mkdir", "transformers.utils.hub.os.mkdir", "numpy.f2py.os.mkdir"):
        yield target, lambda target=target: load_model_config(_run_config(directory, target, canary))
    yield "remote code", lambda: _remote(directory / "model", canary)
    yield "TorchScript", lambda: _torchscript(directory / "script.pt", canary)


def _arrays_of_pointers(canary: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attacks that name allowed classes only. Whoever looks at the array reads any memory."""
    import torch

    pickled = whole(array("V8", HIDDEN, length=1))

    def attack(load: Callable[[bytes], object], data: bytes) -> Callable[[], object]:
        return lambda: load(data) is not None and canary.mkdir()

    def load(data: bytes) -> object:
        return torch.load(io.BytesIO(data), weights_only=False)

    yield "pointers in an object", attack(load, archive(pickled))
    yield "pointers in an extra state", attack(_as_transformer_engine, pickled)


def _as_transformer_engine(data: bytes) -> object:
    """Call pickle.loads from a module with the name of Transformer Engine's."""
    module = {"__name__": "transformer_engine.pytorch.module.base", "data": data}
    exec("import pickle; loaded = pickle.loads(data)", module)
    return module["loaded"]


def _run_config(directory: Path, target: str, canary: Path) -> str:
    path = directory / target
    path.mkdir()
    (path / "run_config.yaml").write_text(f"model: {{_target_: {target}, _args_: ['{canary}']}}")
    return str(path)


def _remote(model: Path, canary: Path) -> object:
    from transformers import AutoConfig

    model.mkdir()
    (model / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    source = f"import os\nfrom transformers import PretrainedConfig\nos.mkdir({str(canary)!r})\n"
    (model / "evil.py").write_text(f"{source}class Config(PretrainedConfig):\n    model_type = 'evil'\n")
    return AutoConfig.from_pretrained(model, trust_remote_code=True)


def _torchscript(path: Path, canary: Path) -> None:
    import torch

    class Module(torch.nn.Module):
        def forward(self) -> int:
            return 1

    torch.jit.save(torch.jit.script(Module()), path)
    torch.load(path, weights_only=False)
    canary.mkdir()


def loaded() -> dict[str, list[float]]:
    """Objects that a checkpoint may have, in both formats of torch, with data behind them."""
    import numpy as np
    import torch

    objects = [np.arange(3, dtype="u4"), torch.nn.Parameter(torch.arange(3.0)[1:])]
    files = {"new": io.BytesIO(), "old": io.BytesIO()}
    for name, file in files.items():
        torch.save(objects, file, _use_new_zipfile_serialization=name == "new")
        file.seek(0)
    found = {name: torch.load(file, weights_only=False) for name, file in files.items()}
    found["extra state"] = _as_transformer_engine(pickle.dumps(objects, 4))
    return {name: [*map(float, (*array, *tensor))] for name, (array, tensor) in found.items()}


def exchanges() -> list[str]:
    """Pickles between processes of a run, with classes that no checkpoint may have."""
    import torch

    queue = multiprocessing.get_context("spawn").Queue()
    queue.put(Decimal(1))
    loader = torch.utils.data.DataLoader(
        [Decimal(2)], num_workers=1, collate_fn=list, multiprocessing_context="spawn"
    )
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo")
    objects = [None]
    torch.distributed.all_gather_object(objects, Decimal(3))
    return [str(queue.get()), str(next(iter(loader))[0]), str(objects[0])]


def main() -> None:
    directory, mode = Path(sys.argv[1]), sys.argv[2]
    warnings.simplefilter("ignore")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from trainer.bridge import checkpoint_guard, compat

    if mode == "guarded":
        checkpoint_guard.guard_pickles()
    compat.install()
    import megatron.bridge.training.finetune

    assert megatron.bridge
    if mode == "guarded":
        checkpoint_guard.guard_code()
    canary, results = directory / "canary", {}
    for name, attack in attacks(directory, canary):
        try:
            attack()
            results[name] = "loaded"
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
        if canary.exists():
            canary.rmdir()
            results[name] = "ran"
    print("RESULT" + json.dumps({"attacks": results, "loaded": loaded(), "exchanges": exchanges()}))


if __name__ == "__main__":
    main()
