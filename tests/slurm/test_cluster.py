"""The Slurm cluster that tests, demo and bench use."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from demo.slurm.cluster import DemoSlurm
from demo.slurm.daemons import ClusterError
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def submit(cluster: DemoSlurm, script: str, *options: str) -> str:
    """Submit by sbatch, as the test user; return the job's id."""
    command = ("sbatch", "--parsable", "--output=/dev/null", "--chdir=/tmp", *options)
    return cluster.run(*command, user=cluster.user, stdin=f"#!/bin/sh\n{script}\n").stdout.strip()


def recorded(cluster: DemoSlurm, job: str) -> list[str]:
    """Return state, exit code and user of a job from accounting."""
    asked = ("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}")
    return cluster.run(*asked, "--format=State,ExitCode,User").stdout.strip().split("|")


def queued(cluster: DemoSlurm, job: str) -> str:
    return cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.strip()


def ssh(cluster: DemoSlurm, user: str, command: str) -> str:
    return subprocess.run(
        ["ssh", "-F", "none", "-i", cluster.ssh_key, "-o", f"UserKnownHostsFile={cluster.known_hosts}",
         "-o", "BatchMode=yes", "-p", str(cluster.ssh_port), f"{user}@127.0.0.1", command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=30,
    ).stdout.strip()  # fmt: skip


def processes(directory: Path) -> list[str]:
    """Return the processes with the directory in their command line or SLURM_CONF."""
    return [found.name() for found in psutil.process_iter() if str(directory) in _command_line(found)]


def _command_line(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return " ".join([*process.cmdline(), process.environ().get("SLURM_CONF", "")])
    except psutil.Error:
        return ""


def test_a_job_of_the_user_completes(slurm: DemoSlurm) -> None:
    job = submit(slurm, "exit 3", "--gres=gpu:2")
    wait_until(lambda: queued(slurm, job) == "FAILED", what="the end of the job")
    wait_until(lambda: recorded(slurm, job) == ["FAILED", "3:0", slurm.user], what="its record")


def test_a_job_gets_the_requested_gpus(slurm: DemoSlurm) -> None:
    given = slurm.run("srun", "--gres=gpu:3", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", user=slurm.user)
    assert len(given.stdout.split(",")) == 3


@pytest.mark.parametrize("user", ["root", "slurmtest"])
def test_a_job_over_ssh_completes(slurm: DemoSlurm, user: str) -> None:
    job = ssh(slurm, user, "sbatch --parsable --output=/dev/null --wrap true")
    wait_until(lambda: recorded(slurm, job) == ["COMPLETED", "0:0", user], what="the job's record")


def test_files_are_copied_over_sftp(slurm: DemoSlurm, tmp_path: Path) -> None:
    subprocess.run(
        ["sftp", "-F", "none", "-i", slurm.ssh_key, "-o", f"UserKnownHostsFile={slurm.known_hosts}",
         "-o", "BatchMode=yes", "-P", str(slurm.ssh_port), f"root@127.0.0.1:{slurm.conf}", tmp_path],
        stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert (tmp_path / "slurm.conf").read_text() == slurm.conf.read_text()


def test_a_fake_command_is_found_by_jobs_and_over_ssh(slurm: DemoSlurm) -> None:
    stand_in = slurm.bin / "stand-in"
    stand_in.write_text("#!/bin/sh\necho it is me\n")
    stand_in.chmod(0o755)
    assert slurm.run("srun", "stand-in", user=slurm.user).stdout == "it is me\n"
    assert ssh(slurm, slurm.user, "stand-in") == "it is me"


@pytest.mark.parametrize("name", ["munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd-n1", "sshd"])
def test_a_killed_daemon_is_restarted(slurm: DemoSlurm, name: str) -> None:
    before = slurm.pid(name)
    slurm.kill(name)
    assert slurm.pid(name) is None
    slurm.revive(name)
    assert slurm.pid(name) not in (None, before)
    assert slurm.daemons[name].is_ready()


def test_jobs_survive_a_killed_controller(slurm: DemoSlurm) -> None:
    job = submit(slurm, "while ! [ -e $PWD/go-$SLURM_JOB_ID ]; do sleep 0.1; done")
    wait_until(lambda: queued(slurm, job) == "RUNNING", what="the job to run")
    slurm.run("scontrol", "update", f"jobid={job}", "comment=it-is-written-down")
    saved = slurm.directory / "state" / "job_state"
    wait_until(lambda: b"it-is-written-down" in saved.read_bytes(), what="the controller to save its state")
    slurm.kill("slurmctld")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        slurm.run("sinfo")
    slurm.revive("slurmctld")
    go = Path(f"/tmp/go-{job}")
    go.touch()
    try:
        wait_until(lambda: recorded(slurm, job)[0] == "COMPLETED", what="the job's record")
    finally:
        go.unlink()


def test_clusters_coexist_and_stop_leaves_no_process(slurm: DemoSlurm, cluster_directory: Path) -> None:
    quick = {"nodes": 1, "accounting": False, "ssh": False, "min_job_age_seconds": 5}
    with DemoSlurm.start(cluster_directory, **quick, extra_conf="MaxStepCount=77") as other:
        assert "77" in other.run("scontrol", "show", "config").stdout.split()
        job = submit(other, "trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done")
        wait_until(lambda: queued(other, job) == "RUNNING", what="the job to run")
        other.kill("slurmd-n1", signal.SIGKILL)
        other.kill("slurmctld", signal.SIGSTOP)
        assert "slurmstepd" in processes(cluster_directory)
        assert slurm.run("sinfo", "--noheader", "--format=%D").stdout.split()[0] == "2"
    assert processes(cluster_directory) == []
    assert slurm.run("scontrol", "ping").stdout.strip().endswith("UP")
    other.stop(purge=True)
    assert not cluster_directory.exists()


def test_a_failed_start_is_reported_and_leaves_no_process(cluster_directory: Path) -> None:
    with pytest.raises(ClusterError, match=r"(?s)slurmctld ended.*NoSuchKey"):
        DemoSlurm.start(cluster_directory, accounting=False, ssh=False, extra_conf="NoSuchKey=1")
    assert processes(cluster_directory) == []
    DemoSlurm.load(cluster_directory).stop(purge=True)


def test_a_restarted_cluster_keeps_its_state(cluster_directory: Path) -> None:
    quick = {"nodes": 1, "accounting": False, "ssh": False}
    with DemoSlurm.start(cluster_directory, **quick) as cluster:
        first = submit(cluster, "true")
    with DemoSlurm.start(cluster_directory, **quick) as cluster:
        assert int(submit(cluster, "true")) == int(first) + 1
    cluster.stop(purge=True)
