"""What an allowed name may be given: the arguments of calls, and the states of objects.

Some names are safe only as torch and numpy use them: with a made-up type numpy reads any memory, and a tensor
can show a part of its storage, which then is another pickle than the one that was inspected.
"""

from functools import cache
from typing import Any

from trainer.checkpoint_safety.allowed import STORAGES


class Global(str):
    """The full name of a class or function, on the stack of a scan."""

    __slots__ = ()


class Instance(str):
    """What a call of a global returned: the full name of the global."""

    __slots__ = ()


class Storage(int):
    """The bytes of tensors: the number of their elements."""


# All other values, and texts and tuples whose content does not matter.
DATA, TEXT, TUPLE = object(), object(), object()
Value = Any
"""One of these, a text, a number, None, bytes, or a tuple of values."""

MAX_ITEMS = 8
"""Longer tuples matter nowhere."""
LOADS_BYTES = frozenset({"torch.storage._load_from_bytes", "megatron.core.safe_globals.safe_load_from_bytes"})
RECONSTRUCT = frozenset({"numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"})
STORAGE_CLASSES = frozenset({f"torch.{name}" for name in STORAGES.split()} | {"torch.storage.UntypedStorage"})
NEVER_CALLED = STORAGE_CLASSES | {"numpy.ndarray"}
"""Only arguments in a checkpoint. Their calls would show memory that nothing has written, or any other."""
NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
BYTE_ORDERS = ("<", "|")
TEXTS = NUMBERS | {*BYTE_ORDERS, "latin1", "storage"}
"""Texts that the rules below compare."""


@cache
def made_by(name: str) -> Instance:
    """Return the value of a call. It is cached, as a pickle can have millions of them."""
    return Instance(name)


def is_container(value: Value) -> bool:
    """Whether a value may get items. Those of a tensor would differ from the ones that are stored."""
    return value is DATA or (type(value) is Instance and value == "collections.OrderedDict")


def tuple_of(items: list[Value]) -> Value:
    """Return the value of a tuple, without what lies deep in it."""
    if len(items) > MAX_ITEMS:
        return TUPLE
    return tuple(TUPLE if type(item) is tuple and _is_nested(item) else item for item in items)


def _is_nested(items: tuple[Value, ...]) -> bool:
    return any(type(item) is tuple for item in items)


def is_usual_call(called: str, arguments: Value) -> bool:
    """Whether torch and numpy write such a call. Arguments of most names do not matter."""
    match arguments:
        case (str(code), False, True) if called == "numpy.dtype":
            return code in NUMBERS
        case (Global("numpy.ndarray"), (0,), _) if called in RECONSTRUCT:
            return True
        case (_, "latin1") if called == "_codecs.encode":
            return True
        case (bytes(),) if called in LOADS_BYTES:
            return True
    return called not in {"numpy.dtype", "_codecs.encode", *RECONSTRUCT, *LOADS_BYTES, *NEVER_CALLED}


def is_complete_tensor(called: str, arguments: Value) -> bool:
    """Whether a call that makes a tensor makes one of all bytes of its storage, in their order."""
    if called == "torch._utils._rebuild_tensor_v2":
        match arguments:
            case (Storage() as storage, 0, (size,), (1,), _, _):
                return bool(storage == size)
    return not called.startswith("torch._utils._rebuild_")


def is_usual_state(made: Instance, state: Value) -> bool:
    """Whether torch and numpy write such a state (BUILD). Functions return objects that get none."""
    match state:
        case (3, str(order), None, None, None, -1, -1, 0) if made == "numpy.dtype":
            return order in BYTE_ORDERS
        # Of a shape of more than 64 numbers, numpy reads what lies behind its own copy.
        case (1, tuple(), Instance("numpy.dtype"), _, _) if made in RECONSTRUCT:
            return True
        case tuple() if made.endswith(".TensorProperties"):
            return True
    return state is DATA and made.rpartition(".")[2].lstrip("_")[:1].isupper()


def storage_of(identifier: Value) -> Storage | None:
    """Return the storage of a persistent id, None for an id that torch does not write."""
    match identifier:
        case ("storage", Global() as kind, key, place, int(count)) | (
            "storage", Global() as kind, key, place, int(count), None
        ) if kind in STORAGE_CLASSES and _is_text(key) and _is_text(place):  # fmt: skip
            return Storage(count)
    return None


def _is_text(value: Value) -> bool:
    return value is TEXT or type(value) is str
