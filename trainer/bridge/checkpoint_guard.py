"""Apply the lists of trainer/checkpoint_safety while Bridge 0.6.2 loads checkpoints and models.

The files were checked before, but may have been replaced since. Each guard states what it prevents. Pickles
that processes of a run exchange (collectives, multiprocessing, data loaders) are not affected.
"""

import io
import os
import pickle
import sys
from types import FrameType
from typing import IO, Any, NoReturn

from trainer.checkpoint_safety.allowed import CLASSES, TARGETS
from trainer.checkpoint_safety.pickles import MAX_PICKLE_BYTES, Hostile, Unreadable, scan_first
from trainer.quoting import shown

# Modules that unpickle files, and modules that unpickle what another process of the run sends. The innermost
# frame in one of them decides.
LOADERS = (
    "torch.serialization", "torch.storage", "torch.distributed.checkpoint", "megatron", "modelopt",
    "numpy.lib", "transformer_engine", "transformers",
)  # fmt: skip
EXCHANGES = ("multiprocessing", "torch.multiprocessing", "torch.distributed.distributed_c10d")


class HostileCheckpoint(RuntimeError):
    """A file of a checkpoint or model would have run code while it was loaded."""


def guard_pickles() -> None:
    """Reject what is not allowed, in every unpickler of this process that loads a file. Call before torch.

    torch.distributed.checkpoint reads `.metadata` by pickle.load and objects of .distcp files by torch.load
    with weights_only=False, Transformer Engine its extra state by pickle.loads. Each pickle is inspected
    before it is loaded. Python also reports each class that any unpickler asks for before it imports the
    class: unpicklers that were imported before, or written in C, cannot evade that.
    """
    sys.addaudithook(_on_event)
    vars(pickle).update(load=_load, loads=_loads, Unpickler=_Unpickler)
    # With it, torch.load would use an unpickler that builds any class.
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)


class _Unpickler(pickle.Unpickler):
    """Inspects a pickle before it loads it."""

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(_inspected(file) if _is_loading(sys._getframe(1)) else file, **options)


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def _loads(data: bytes, /, **options: Any) -> Any:
    return _Unpickler(io.BytesIO(data), **options).load()


def _inspected(file: IO[bytes]) -> IO[bytes]:
    """Return the first pickle of a file, and leave the file behind it.

    Raises HostileCheckpoint, and Unreadable if the pickle is damaged.
    """
    begin, data = file.tell(), file.read(MAX_PICKLE_BYTES)
    try:
        _, length = scan_first(data, CLASSES, storages=True)
    except Unreadable:
        raise
    except Hostile as hostile:
        raise HostileCheckpoint(f"Rejected a checkpoint that {hostile}.") from hostile
    file.seek(begin + length)
    return io.BytesIO(data[:length])


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "pickle.find_class":
        return
    name = ".".join(map(str, arguments))
    if name not in CLASSES and _is_loading(sys._getframe(1)):
        raise HostileCheckpoint(
            f"A checkpoint names {shown(name)}, which is not in the list of allowed classes."
        )


def _is_loading(frame: FrameType | None) -> bool:
    """Whether an unpickler was called to load a file."""
    while frame is not None:
        module = f"{frame.f_globals.get('__name__')}."
        if module.startswith(tuple(f"{name}." for name in EXCHANGES)):
            return False
        if module.startswith(tuple(f"{name}." for name in LOADERS)):
            return True
        frame = frame.f_back
    return False


def guard_code() -> None:
    """Reject code that is named by a text. Call after Bridge is imported and before it loads anything."""
    _targets()
    _remote_code()
    _torchscript()


def _targets() -> None:
    """Bridge would call nearly everything in torch, transformers, numpy and megatron for run_config.yaml."""
    import megatron.bridge.utils.instantiate_utils as instantiate

    def validate(*, target: str, full_key: str | int) -> None:
        if target not in TARGETS:
            raise HostileCheckpoint(
                f"A checkpoint has the target {shown(target)} at {full_key}, "
                "which is not in the list of allowed targets."
            )

    instantiate._validate_target_prefix = validate
    # megatron-core consults it where it imports the module of a target without calling the target.
    instantiate.target_allowlist.is_allowed = TARGETS.__contains__


def _remote_code() -> None:
    """With trust_remote_code, transformers would import the files that `auto_map` of a model names."""
    from transformers import dynamic_module_utils

    def get_class_in_module(name: str, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise HostileCheckpoint(
            f"A model has its own code, {shown(name)}, which is not in the list of allowed classes."
        )

    dynamic_module_utils.get_class_in_module = get_class_in_module


def _torchscript() -> None:
    """torch.load hands archives with TorchScript to torch.jit.load, which can run them."""
    import torch

    def load(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise HostileCheckpoint("A checkpoint has TorchScript, which is not in the list of allowed classes.")

    torch.jit.load = load
