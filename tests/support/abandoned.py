"""Tests that tests/test_reaper.py runs in a session of their own, and kills. They are found by path only."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from demo.slurm.cluster import DemoSlurm
from tests.support.service import Service
from tests.support.slurm_service import new_directory
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until


def test_a_service(service: Service, body: dict[str, Any], postgres: object, broker: str) -> None:
    job = service.submit(with_mode(body, "hold"))
    service.wait_for(job["id"], "RUNNING")
    wait_for_the_end("service")


def test_a_cluster() -> None:
    with DemoSlurm.start(new_directory(), nodes=1) as slurm:
        slurm.run("sbatch", "--output=/dev/null", "--wrap=setsid sleep 1000 & sleep 1000")
        login = ["ssh", "-i", slurm.ssh_key, "-o", f"UserKnownHostsFile={slurm.known_hosts}"]
        command = [*login, "-p", str(slurm.ssh_port), "root@127.0.0.1", "setsid sleep 1000 & sleep 1000"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL):
            wait_until(lambda: slurm.run("squeue", "--noheader", "--states=running").stdout, what="the job")
            wait_for_the_end("cluster")


def wait_for_the_end(name: str) -> None:
    """Say which process this is and where its session is, and wait to be killed."""
    (Path(os.environ["ABANDONED"]) / name).write_text(f"{os.getpid()} {tempfile.gettempdir()}")
    time.sleep(1000)
