"""Files as torch and Megatron-Bridge write them, without torch: indexes, archives, and hostile ones."""

import io
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RUN_CONFIG = b"""\
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.gpt_provider.GPTModelProvider
  params_dtype:
    _call_: false
    _target_: torch.float32
tokenizer:
  _target_: megatron.bridge.training.tokenizers.config.TokenizerConfig
"""
BACKEND = b'{"sharded_backend": "torch_dist", "sharded_backend_version": 1}'

METADATA = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"


def _class(module: str, name: str) -> Any:
    return type(name, (types.SimpleNamespace,), {"__module__": module, "__hash__": object.__hash__})


Metadata = _class(METADATA, "Metadata")
MetadataIndex = _class(METADATA, "MetadataIndex")
TensorStorageMetadata = _class(METADATA, "TensorStorageMetadata")
BytesStorageMetadata = _class(METADATA, "BytesStorageMetadata")
StorageInfo = _class(FILESYSTEM, "_StorageInfo")


@contextmanager
def _modules() -> Iterator[None]:
    """Let pickle find the classes above under their names in torch."""
    names = ("torch", "torch.distributed", "torch.distributed.checkpoint", METADATA, FILESYSTEM)
    stubs = {name: types.ModuleType(name) for name in names}
    for cls in (Metadata, MetadataIndex, TensorStorageMetadata, BytesStorageMetadata, StorageInfo):
        setattr(stubs[cls.__module__], cls.__name__, cls)
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def index(
    tensors: dict[str, tuple[str, int, int]],
    objects: dict[str, tuple[str, int, int]] | None = None,
    **more: Any,
) -> bytes:
    """Return an index (.metadata). Each tensor and object is in a file, at an offset, with a length."""
    kinds = dict.fromkeys(tensors, TensorStorageMetadata()) | dict.fromkeys(
        objects or {}, BytesStorageMetadata()
    )
    places = {
        MetadataIndex(fqn=key, offset=None): StorageInfo(relative_path=name, offset=offset, length=length)
        for key, (name, offset, length) in (tensors | (objects or {})).items()
    }
    content = {"state_dict_metadata": kinds, "storage_data": places, **more}
    with _modules():
        return pickle.dumps(Metadata(**content), protocol=4)


def archive(content: bytes, storages: dict[str, bytes] | None = None, **more: bytes) -> bytes:
    """Return a file of torch.save with this pickle. more: members with other names."""
    buffer = io.BytesIO()
    members = {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{name}": data for name, data in (storages or {}).items()} | more
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def legacy(content: bytes) -> bytes:
    """Return a file of torch.save in its format before zip files, with this pickle."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps(["0"], 2) + b"storage"


def loaded_from_bytes(data: bytes) -> bytes:
    """Return a pickle of a tensor in bytes, as Transformer Engine has it."""
    name = b"\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93"
    return b"\x80\x04" + name + b"B" + len(data).to_bytes(4, "little") + data + b"\x85R."


def plain(value: object) -> bytes:
    """Return a file of torch.save with a plain value."""
    return archive(pickle.dumps(value, protocol=2))


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call
