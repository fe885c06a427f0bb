"""Resource limits of a process that inspects files which somebody else wrote."""

import resource

# A warm process occupies 240 MiB of it; a tokenizer of 33 MB and an index of 64 MiB each take up to 600 more.
MEMORY_BYTES = 1 << 30
MAX_DESCRIPTORS = 256


# Set before pyarrow is imported. Its own allocators reserve gigabytes, and each thread 8 MiB for its stack.
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "ARROW_IO_THREADS": "1", "OMP_NUM_THREADS": "1"}


def limit_resources() -> None:
    """Bound this process's memory, and forbid files, core dumps and many descriptors. Irrevocable."""
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_DESCRIPTORS),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (_at_most(limit, hard),) * 2)


def limit_cpu(seconds: float) -> None:
    """Let the kernel end this process (SIGXCPU) after so many more seconds of CPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(limit, hard), hard))


def _at_most(limit: int, hard: int) -> int:
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)
