"""Give up what an inspection does not need: the network, new rights, and the descriptors of errors."""

import ctypes
import os

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)
PR_SET_NO_NEW_PRIVS = 38  # prctl(2)


def leave_network() -> bool:
    """Move this process, which has one thread, to an empty network; False where the kernel forbids it."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Root needs no namespace of users, in which it would lose the right to read the files of others.
    return any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))


def drop_output() -> None:
    """Close stderr, which the start needed for its errors."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
