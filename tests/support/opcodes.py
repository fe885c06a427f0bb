"""Pieces of pickles, opcode by opcode: what no pickler writes."""

import pickle


def text(value: str) -> bytes:
    """Return opcodes that put a text on the stack."""
    data = value.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def number(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def name(full: str) -> bytes:
    """Return opcodes that put a class or function on the stack."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(full: str, *arguments: bytes) -> bytes:
    return name(full) + items(*arguments) + pickle.REDUCE


def items(*values: bytes) -> bytes:
    """Return opcodes of a tuple."""
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def whole(*opcodes: bytes) -> bytes:
    """Return a pickle."""
    return b"\x80\x02" + b"".join(opcodes) + pickle.STOP


NONE, TRUE, FALSE, BUILD = pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BUILD
ORDERED = call("collections.OrderedDict")
# The state of numbers of four bytes, as numpy writes it.
NUMBERS = items(number(3), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0))
FIELD = pickle.EMPTY_DICT + text("f") + items(call("numpy.dtype", text("O"), FALSE, TRUE), number(0)) + b"s"
# ... and of an object of a field, whose flags say that there is none.
HIDDEN = items(number(3), text("|"), NONE, items(text("f")), FIELD, number(8), number(1), number(0))


def array(kind: str = "u4", state: bytes | None = NUMBERS, content: str = "A" * 8, length: int = 2) -> bytes:
    """Return opcodes of an array of numpy. state: of its type."""
    dtype = call("numpy.dtype", text(kind), FALSE, TRUE) + (state + BUILD if state else b"")
    return empty() + items(number(1), items(number(length)), dtype, FALSE, encoded(content)) + BUILD


def empty(*, kind: bytes = name("numpy.ndarray"), length: int = 0) -> bytes:
    """Return opcodes of an array before it has its state."""
    return call("numpy._core.multiarray._reconstruct", kind, items(number(length)), encoded("b"))


def encoded(value: str, codec: str = "latin1") -> bytes:
    return call("_codecs.encode", text(value), text(codec))


def storage(count: int, *more: bytes, kind: str = "torch.ByteStorage") -> bytes:
    """Return opcodes of the bytes of tensors, `data/0` of an archive."""
    return items(text("storage"), name(kind), text("0"), text("cpu"), number(count), *more) + b"Q"


def tensor(place: bytes, offset: int, size: int, stride: int = 1, *more: bytes) -> bytes:
    where = place, number(offset), items(number(size)), items(number(stride)), FALSE, ORDERED
    return call("torch._utils._rebuild_tensor_v2", *where, *more)
