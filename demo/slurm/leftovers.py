"""Find and kill job processes that outlive Slurm's daemons, identified by their environment."""

from pathlib import Path

import psutil

from demo.slurm.daemons import end


def find_all(conf: Path) -> list[psutil.Process]:
    """Return slurmstepds and job processes of the cluster with this slurm.conf."""
    return [process for process in psutil.process_iter() if _belongs(process, conf)]


def _belongs(process: psutil.Process, conf: Path) -> bool:
    """Return whether a process is a job or slurmstepd of the cluster. Clients have SLURM_CONF, too."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Not psutil's environ(): it stops where slurmstepd has overwritten its environment with a title.
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        job = process.name() == "slurmstepd" or any(word.startswith(b"SLURM_JOB_ID=") for word in environment)
    except (OSError, psutil.Error):
        return False
    return job and f"SLURM_CONF={conf}".encode() in environment


def end_all(conf: Path) -> None:
    """Kill these processes until none is left."""
    while found := find_all(conf):
        end(found)
