"""Resource limits of a process that inspects files which somebody else wrote."""

import resource

# A warm process occupies 240 MiB of it; a tokenizer of 33 MB and an index of 64 MiB each take up to 600 more.
MEMORY_BYTES = 1 << 30
MOST_DESCRIPTORS = 256


def limit_resources() -> None:
    """Bound this process's memory, and forbid files, core dumps and many descriptors. Irrevocable."""
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MOST_DESCRIPTORS),
    ):
        _, hard = resource.getrlimit(kind)
        smaller = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (smaller, smaller))


def limit_cpu(seconds: float) -> None:
    """Let the kernel end this process (SIGXCPU) after so many more seconds of CPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))
