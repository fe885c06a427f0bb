"""Inspect pickles without unpickling them.

A pickle is a program that can import and call anything. Its opcodes are followed with a stack of kinds
instead of values: so each class that it names, and each use of it, is known before anything is built.
values.py says which uses are those of a checkpoint.
"""

import pickletools
from collections.abc import Callable
from functools import cache
from typing import Any

from trainer.checkpoint_safety import values
from trainer.checkpoint_safety.values import DATA, TEXT, Global, Instance, Value
from trainer.quoting import shown

MAX_PICKLE_BYTES = 128 << 20
"""The index of a checkpoint of 350,000 pieces. One of a model of 30 billion parameters has about 50,000."""
MAX_OPCODES = 64 << 20
MAX_MEMO = 8 << 20
MAX_OBJECTS = 8 << 20
"""Containers and instances: one of a byte takes 64 bytes of memory and more."""
MAX_STACK = 100_000
"""Picklers write containers in batches of 1,000 items."""


class Hostile(ValueError):
    """A file would run code or exhaust memory when it is loaded, or it cannot be inspected."""


class Unreadable(Hostile):
    """A file is truncated or has another format. It names nothing that is not allowed."""


def scan(data: bytes, allowed: frozenset[str], **options: Any) -> set[str]:
    """Return the full names of all classes and functions that a pickle names. Raises Hostile.

    Options as of scan_first.
    """
    names, end = scan_first(data, allowed, **options)
    if end != len(data):
        raise Unreadable("has more data behind its pickle")
    return names


def scan_first(
    data: bytes,
    allowed: frozenset[str],
    *,
    storages: bool = False,
    complete_tensors: bool = False,
    loaded: list[bytes] | None = None,
) -> tuple[set[str], int]:
    """Scan the first of several pickles: return the names as scan, and the position behind it.

    allowed: names that it may have.
    storages: whether it may have persistent ids, by which torch.save refers to the tensors beside it.
    complete_tensors: whether each tensor must have all bytes of its storage.
    loaded: receives the bytes that it loads as a file of torch.save.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise Hostile(f"has a pickle of {len(data)} bytes; at most {MAX_PICKLE_BYTES} can be inspected")
    machine = _Machine(data, allowed, storages=storages, complete_tensors=complete_tensors)
    try:
        end = machine.run()
    except Hostile:
        raise
    except (ValueError, IndexError) as error:  # bad text, an empty stack, a truncated file
        raise Unreadable(f"has a damaged pickle: {str(error)[:100]}") from error
    if loaded is not None:
        loaded += machine.loaded
    return machine.names, end


_ABSENT = object()


class _Machine:
    """Follows the opcodes of one pickle."""

    def __init__(
        self, data: bytes, allowed: frozenset[str], *, storages: bool, complete_tensors: bool
    ) -> None:
        self.data, self.allowed, self.complete_tensors = data, allowed, complete_tensors
        self.texts = _texts(allowed)
        self.steps = {**_STEPS, "BINPERSID": _Machine.storage} if storages else _STEPS
        self.loaded: list[bytes] = []
        self.names: set[str] = set()
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: list[Value] = []
        self.memorized = self.objects = self.count = self.position = 0

    def run(self) -> int:
        """Follow all opcodes; return the position behind the last. Raises Hostile, ValueError, IndexError."""
        steps, stack, marks = self.steps, self.stack, self.marks
        for opcode, argument, position in pickletools.genops(self.data):
            step = steps.get(opcode.name)
            if step is None:
                raise Hostile(f"has a pickle with the opcode {opcode.name}, which no checkpoint needs")
            self.position = position or 0
            step(self, argument)
            self.count += 1
            if (
                max(len(stack), len(marks)) > MAX_STACK
                or self.objects > MAX_OBJECTS
                or self.count > MAX_OPCODES
            ):
                raise Hostile("has a pickle that is too large or too deep to be inspected")
        return self.position + 1

    # -- values ----------------------------------------------------------------------------------------

    def skip(self, _argument: Any) -> None:
        """PROTO, FRAME and STOP change no values."""

    def push(self, argument: Value) -> None:
        """Numbers, bytes; and None, which opcodes without an argument have."""
        self.stack.append(argument)

    def true(self, _argument: Any) -> None:
        self.stack.append(True)

    def false(self, _argument: Any) -> None:
        self.stack.append(False)

    def make(self, _argument: Any, value: Value = DATA) -> None:
        self.objects += 1
        self.stack.append(value)

    def text(self, argument: str) -> None:
        self.stack.append(argument if len(argument) < 256 else TEXT)

    def mark(self, _argument: Any) -> None:
        self.marks.append(len(self.stack))

    def _take(self, count: int) -> list[Value]:
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError("it takes a value that is not there")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _take_marked(self) -> list[Value]:
        return self._take(len(self.stack) - self.marks.pop())

    def frozen_set(self, _argument: Any) -> None:
        self._take_marked()
        self.make(None)

    def tuple(self, _argument: Any) -> None:
        self.make(None, values.tuple_of(self._take_marked()))

    def tuple0(self, _argument: Any) -> None:
        self.stack.append(())

    def tuple1(self, _argument: Any) -> None:
        self.make(None, values.tuple_of(self._take(1)))

    def tuple2(self, _argument: Any) -> None:
        self.make(None, values.tuple_of(self._take(2)))

    def tuple3(self, _argument: Any) -> None:
        self.make(None, values.tuple_of(self._take(3)))

    def append(self, _argument: Any) -> None:
        self._take(1)
        self._require_container()

    def set_item(self, _argument: Any) -> None:
        self._take(2)
        self._require_container()

    def add_all(self, _argument: Any) -> None:
        self._take_marked()
        self._require_container()

    def _require_container(self) -> None:
        if not values.is_container(self.stack[-1]):
            raise Hostile("has a pickle that adds items to something that is no list, set or dictionary")

    # -- memo ------------------------------------------------------------------------------------------

    def memoize(self, _argument: Any) -> None:
        self.put(self.memorized)

    def put(self, index: int) -> None:
        if index > self.count or index > MAX_MEMO:
            # The unpickler written in C allocates memory for all smaller indexes.
            raise Hostile(f"has a pickle with the memo index {index} at its opcode {self.count}")
        if index >= len(self.memo):
            self.memo.extend([_ABSENT] * (index + 1 - len(self.memo)))
        self.memorized += self.memo[index] is _ABSENT
        self.memo[index] = self._memorable(self.stack[-1])

    def _memorable(self, value: Value) -> Value:
        """Return a value without content that would fill the memory, and that picklers write only once."""
        match value:
            case Global() | Instance():
                return value
            case str():
                return self.texts.get(value, TEXT)
            case tuple():
                return values.TUPLE
        return value if type(value) is object else DATA

    def get(self, index: int) -> None:
        value = self.memo[index]
        if value is _ABSENT:
            raise IndexError("it takes a value that is not in its memo")
        self.stack.append(value)

    # -- globals ---------------------------------------------------------------------------------------

    def global_(self, _argument: Any) -> None:
        # The two lines as they are: genops decodes escapes in them, which unpicklers do not.
        begin = self.position + 1
        middle = self.data.index(b"\n", begin, begin + 256)
        end = self.data.index(b"\n", middle + 1, middle + 256)
        self._name(self.data[begin:middle].decode(), self.data[middle + 1 : end].decode())

    def stack_global(self, _argument: Any) -> None:
        module, name = self._take(2)
        if type(module) is not str or type(name) is not str:
            raise Hostile("has a pickle that computes the name of a class, or has one which is not allowed")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise Hostile(f"names {shown(full)}, which is not in the list of allowed classes")
        self.names.add(full)
        self.stack.append(Global(full))

    def call(self, _argument: Any) -> None:
        called, arguments = self._take(2)
        if type(called) is not Global:
            raise Hostile("has a pickle that calls something that it does not name")
        if not values.is_usual_call(called, arguments):
            raise Hostile(f"calls {called} in a way that no checkpoint needs")
        if self.complete_tensors and not values.is_complete_tensor(called, arguments):
            raise Hostile("has a tensor that is a part of what is stored, which cannot be inspected")
        if called in values.LOADS_BYTES:
            self.loaded += arguments
        self.make(None, values.made_by(called))

    def build(self, _argument: Any) -> None:
        [state] = self._take(1)
        made = self.stack[-1]
        if type(made) is not Instance:
            raise Hostile("has a pickle that sets attributes of something that it did not make")
        if not values.is_usual_state(made, state):
            raise Hostile(f"sets attributes of what {made} returned in a way that no checkpoint needs")

    def storage(self, _argument: Any) -> None:
        storage = values.storage_of(*self._take(1))
        if storage is None:
            raise Hostile("has a persistent id that torch does not write")
        self.make(None, storage)


# What picklers of protocol 2 and later write for the data of a checkpoint. Older opcodes, extension codes,
# buffers and integers of any size are in no checkpoint.
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.skip),
    **dict.fromkeys(("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES"), _Machine.push),
    "NEWTRUE": _Machine.true,
    "NEWFALSE": _Machine.false,
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), _Machine.make),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE"), _Machine.text),
    "MARK": _Machine.mark,
    "EMPTY_TUPLE": _Machine.tuple0,
    "TUPLE1": _Machine.tuple1,
    "TUPLE2": _Machine.tuple2,
    "TUPLE3": _Machine.tuple3,
    "TUPLE": _Machine.tuple,
    "FROZENSET": _Machine.frozen_set,
    "APPEND": _Machine.append,
    "SETITEM": _Machine.set_item,
    **dict.fromkeys(("APPENDS", "SETITEMS", "ADDITEMS"), _Machine.add_all),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "BUILD": _Machine.build,
}


@cache
def _texts(allowed: frozenset[str]) -> dict[str, str]:
    """Texts by themselves that matter: modules and names of classes, and those that values.py compares."""
    halves = {half for name in allowed for half in (name.rpartition(".")[0], name.rpartition(".")[2])}
    return {text: text for text in halves | values.TEXTS}
