"""Inspect pickles without unpickling them.

A pickle is a program that can import and call anything. Its opcodes are followed with a stack of kinds
instead of values: so each class that it names, and each use of it, is known before anything is built.
"""

import pickletools
from collections.abc import Callable
from functools import cache
from typing import Any

MAX_BYTES = 128 << 20
"""The index of a checkpoint of 350,000 pieces. One of a model of 30 billion parameters has about 50,000."""
MAX_OPCODES = 64 << 20
MAX_MEMO = 8 << 20
MAX_OBJECTS = 8 << 20
"""Containers and instances: one of a byte takes 64 bytes of memory and more."""
MAX_STACK = 100_000
NEVER_CALLED = frozenset({"numpy.ndarray"})
"""With a buffer and a type of its caller's choice it reads any memory."""
"""Picklers write containers in batches of 1,000 items."""


class Hostile(ValueError):
    """A file would run code or exhaust memory when it is loaded, or it cannot be inspected."""


class Unreadable(Hostile):
    """A file is truncated or has another format. It names nothing that is not allowed."""


def scan(
    data: bytes, allowed: frozenset[str], *, storages: bool = False, literals: list[bytes] | None = None
) -> set[str]:
    """Return the full names of all classes and functions that a pickle names. Raises Hostile.

    allowed: names that it may have.
    storages: whether it may have persistent ids, by which torch.save refers to the tensors beside it.
    literals: receives all bytes objects of the pickle.
    """
    names, end = scan_first(data, allowed, storages=storages, literals=literals)
    if end != len(data):
        raise Unreadable("has more data behind its pickle")
    return names


def scan_first(
    data: bytes, allowed: frozenset[str], *, storages: bool = False, literals: list[bytes] | None = None
) -> tuple[set[str], int]:
    """Scan the first of several pickles, and return the position behind it, too. Otherwise as scan."""
    if len(data) > MAX_BYTES:
        raise Hostile(f"has a pickle of {len(data)} bytes; at most {MAX_BYTES} can be inspected")
    machine = _Machine(data, allowed, storages=storages, literals=literals)
    try:
        return machine.names, machine.run()
    except Hostile:
        raise
    except (ValueError, IndexError) as error:  # bad text, an empty stack, a truncated file
        raise Unreadable(f"has a damaged pickle: {str(error)[:100]}") from error


class _Global(str):
    """The full name of a class or function, on the stack."""

    __slots__ = ()


# Other values on the stack, beside texts. An instance is what a call of a global returned.
_DATA, _INSTANCE, _TEXT, _ABSENT = object(), object(), object(), object()


class _Machine:
    """Follows the opcodes of one pickle."""

    def __init__(
        self, data: bytes, allowed: frozenset[str], *, storages: bool, literals: list[bytes] | None
    ) -> None:
        self.data, self.allowed, self.literals = data, allowed, literals
        self.parts = _parts(allowed)
        self.steps = {**_STEPS, "BINPERSID": _Machine.tuple1} if storages else _STEPS
        self.names: set[str] = set()
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
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

    def push(self, _argument: Any) -> None:
        self.stack.append(_DATA)

    def binary(self, argument: bytes) -> None:
        self.stack.append(_DATA)
        if self.literals is not None:
            self.literals.append(argument)

    def make(self, _argument: Any, kind: object = _DATA) -> None:
        self.objects += 1
        self.stack.append(kind)

    def text(self, argument: str) -> None:
        self.stack.append(argument if len(argument) < 256 else _TEXT)

    def mark(self, _argument: Any) -> None:
        self.marks.append(len(self.stack))

    def _take(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError("it takes a value that is not there")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def collect(self, _argument: Any) -> None:
        del self.stack[self.marks.pop() :]
        self.make(None)

    def tuple1(self, _argument: Any) -> None:
        self._take(1)
        self.make(None)

    def tuple2(self, _argument: Any) -> None:
        self._take(2)
        self.make(None)

    def tuple3(self, _argument: Any) -> None:
        self._take(3)
        self.make(None)

    def append(self, _argument: Any) -> None:
        self._take(1)
        self._require_container()

    def set_item(self, _argument: Any) -> None:
        self._take(2)
        self._require_container()

    def add_all(self, _argument: Any) -> None:
        del self.stack[self.marks.pop() :]
        self._require_container()

    def _require_container(self) -> None:
        if self.stack[-1] is not _DATA and self.stack[-1] is not _INSTANCE:
            raise Hostile("has a pickle that adds items to a class, a function or a text")

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
        value = self.stack[-1]
        # A text matters if it may become a part of a name. Others would fill the memory.
        self.memo[index] = self.parts.get(value, _TEXT) if type(value) is str else value

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
        self.stack.append(_Global(full))

    def call(self, _argument: Any) -> None:
        called, _arguments = self._take(2)
        if type(called) is not _Global:
            raise Hostile("has a pickle that calls something that it does not name")
        if called in NEVER_CALLED:
            raise Hostile(f"calls {called}, which is only an argument in a checkpoint")
        self.make(None, _INSTANCE)

    def build(self, _argument: Any) -> None:
        self._take(1)
        if self.stack[-1] is not _INSTANCE:
            raise Hostile("has a pickle that sets attributes of a class or function")


# What picklers of protocol 2 and later write for the data of a checkpoint. Older opcodes, extension codes,
# buffers and integers of any size are in no checkpoint.
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.skip),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"), _Machine.push),
    **dict.fromkeys(("BINFLOAT", "EMPTY_TUPLE"), _Machine.push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES"), _Machine.binary),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), _Machine.make),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE"), _Machine.text),
    "MARK": _Machine.mark,
    "TUPLE1": _Machine.tuple1,
    "TUPLE2": _Machine.tuple2,
    "TUPLE3": _Machine.tuple3,
    **dict.fromkeys(("TUPLE", "FROZENSET"), _Machine.collect),
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
def _parts(allowed: frozenset[str]) -> dict[str, str]:
    """Modules and names of classes, by themselves."""
    halves = {half for name in allowed for half in (name.rpartition(".")[0], name.rpartition(".")[2])}
    return {half: half for half in halves}


def shown(value: object) -> str:
    """A value from a file, safe to show."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
