"""Read the index of a distributed checkpoint, `.metadata`, without its classes.

It is a pickled torch.distributed.checkpoint.metadata.Metadata. Its `storage_data` has the file, the offset
and the length of each piece of a tensor or object; `state_dict_metadata` tells tensors and objects apart.
"""

import collections
import io
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.checkpoint_safety.pickles import Hostile, Unreadable
from trainer.quoting import shown

MAX_NAME_BYTES = 255  # NAME_MAX of Linux


@dataclass(frozen=True)
class Piece:
    """Where a piece of a tensor or an object is stored."""

    key: str
    """Name of the tensor or object in the checkpoint; empty if the index names it in an unknown way."""
    file: str
    offset: int
    length: int
    is_tensor: bool


def read_pieces(data: bytes) -> list[Piece]:
    """Return all pieces of an index. Raises Hostile.

    No class is imported. A foreign index can exhaust the memory, though: scan it first.
    """
    try:
        return list(_pieces(_InertUnpickler(io.BytesIO(data)).load()))
    except Hostile:
        raise
    except MemoryError:
        raise Unreadable("needs more memory than an inspection may use") from None
    except Exception as error:  # corrupt data can make pickle raise any exception
        raise Unreadable(f"has no readable index: {str(error)[:100]}") from error


def _pieces(index: Any) -> Iterator[Piece]:
    contents = getattr(index, "state_dict_metadata", {})
    tensors = {key for key, what in contents.items() if type(what).__name__ == "TensorStorageMetadata"}
    for where, place in index.storage_data.items():
        key = getattr(where, "fqn", where)
        key = key if isinstance(key, str) else ""
        if getattr(place, "transform_descriptors", None):
            raise Hostile("has compressed pieces, which cannot be inspected")
        yield _checked(Piece(key, place.relative_path, place.offset, place.length, key in tensors))


def _checked(piece: Piece) -> Piece:
    """Return a piece. Raises Hostile unless it lies in a file of the checkpoint's own directory."""
    if type(piece.file) is not str or not _is_name(piece.file):
        raise Hostile(f"names {shown(piece.file)}, which is no file of the checkpoint")
    if any(type(number) is not int or not 0 <= number < 2**63 for number in (piece.offset, piece.length)):
        raise Hostile("names a part of a file by something else than its offset and length")
    return piece


def _is_name(name: str) -> bool:
    """Whether a text can name a file of this directory: no path, no NUL, no character that is not text."""
    is_plain = name.isprintable() and "/" not in name and name not in ("", ".", "..")
    return is_plain and len(os.fsencode(name)) <= MAX_NAME_BYTES


class _InertUnpickler(pickle.Unpickler):
    """Reads a pickle without its classes: no class is imported, and none of their code runs."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ARG002
        return collections.OrderedDict if name == "OrderedDict" else _placeholder(name)


@lru_cache(maxsize=256)
def _placeholder(name: str) -> type:
    return type(name, (_Placeholder,), {})


class _Placeholder:
    """Stands for any pickled object and has its attributes."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if type(self).__name__ == "TensorProperties":  # its state is a tuple, of which nothing is read
            return
        if type(state) is not dict or vars(self):
            raise Hostile("sets attributes of its index in a way that torch does not write")
        vars(self).update(state)
