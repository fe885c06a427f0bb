"""Replace this process by another Python module that ends with its parent, even if the parent is killed.

`python -m cli.child MODULE ARG ...`
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); the setting persists across exec


def main() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return  # the parent ended before prctl
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606 - the parent's own list  # nosec B606


if __name__ == "__main__":
    main()
