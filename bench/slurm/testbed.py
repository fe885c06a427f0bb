"""The environment of the measurements: a Slurm of its own, and the service's processes on it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from bench.inspect import make
from bench.slurm.results import Progress
from cli.prepare import initialize
from demo.slurm.cluster import DemoSlurm
from demo.slurm.config import free_ports
from worker.backends.connect import connect
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.registry import cluster
from worker.settings import PROJECT_ROOT

START_SECONDS = 60.0
RESPONSE_SECONDS = 60.0
_POLL_SECONDS = 0.02

NEAR, FAR = "near", "far"
# Jobs of the partition `down` stay pending: nothing runs during the measurements.
PROFILES = """
[_usual]
executor = "slurm"
partition = "down"
mem = "1G"
slurm_conf = "{conf}"
remote_job_dir = "{root}"
python = "{python}"
roots = ["{inputs}"]

[near]
extends = "_usual"

[far]
extends = "_usual"
tunnel = "ssh"
host = "127.0.0.1"
port = {port}
user = "root"
identity = "{key}"
known_hosts = "{known_hosts}"
"""


@dataclass(frozen=True)
class Testbed:
    """A Slurm, and a directory for inputs, jobs and data directories."""

    slurm: DemoSlurm
    directory: Path

    @property
    def root(self) -> Path:
        """remote_job_dir of both profiles."""
        return self.directory / "cluster"

    @property
    def inputs(self) -> Path:
        return self.directory / "inputs"

    def body(self, profile: str) -> dict[str, Any]:
        """Return the body of POST /v1/jobs."""
        return {
            "name": "bench",
            "config": "cpu-tiny",
            "overrides": [f"hf_model_path={self.inputs / 'model'}"],
            "inputs": {"packed_parquet": str(self.inputs / "packed")},
            "cluster": profile,
        }

    def data_dir(self, name: str) -> Path:
        """Create a service's data directory with both profiles."""
        path = self.directory / name
        path.mkdir()
        profiles = PROFILES.format(
            conf=self.slurm.conf, root=self.root, python=sys.executable, inputs=self.inputs,
            port=self.slurm.ssh_port, key=self.slurm.ssh_key, known_hosts=self.slurm.known_hosts,
        )  # fmt: skip
        (path / "clusters.toml").write_text(profiles)
        return path

    def use(self, name: str) -> Path:
        """Create a data directory, and let this process use it, too."""
        path = self.data_dir(name)
        initialize(path)
        return path


@contextmanager
def opened(progress: Progress) -> Iterator[Testbed]:
    """Yield a testbed in a temporary directory, removed with its Slurm. Raises NotInstalled, ClusterError."""
    directory = Path(tempfile.mkdtemp(prefix="sft-bench-"))
    directory.chmod(0o755)  # the users of jobs and database must be able to enter it
    try:
        with DemoSlurm.start(directory / "slurm", progress=progress) as slurm:
            testbed = Testbed(slurm, directory)
            testbed.root.mkdir()
            _make_inputs(testbed.inputs)
            yield testbed
    finally:
        shutil.rmtree(directory)


def _make_inputs(inputs: Path) -> None:
    """Make a model and packed data that pass the checks of a submission."""
    (inputs / "model").mkdir(parents=True)
    (inputs / "model" / "config.json").write_text("{}")
    (inputs / "model" / "model.safetensors").touch()
    make(inputs / "packed", shards=1, rows=8, tokens=512)
    shutil.copytree(inputs / "packed" / "splits" / "train", inputs / "packed" / "splits" / "valid")
    (inputs / "packed" / "metadata.json").write_text(json.dumps({"pack_size": 512}))


def backend(profile: str) -> SlurmBackend:
    """Return the backend of a profile of this process."""
    found = connect(cluster(profile))
    assert isinstance(found, SlurmBackend)
    return found


# -- the service's processes -----------------------------------------------------------------------


@contextmanager
def serving(data_dir: Path) -> Iterator[httpx2.Client]:
    """Run the complete service with `sft serve`; yield a client with the admin's key."""
    with _running(data_dir, "cli", "serve", "--data-dir", str(data_dir)) as client:
        yield client


@contextmanager
def api(data_dir: Path) -> Iterator[httpx2.Client]:
    """Run only the API: neither worker nor beat polls jobs meanwhile."""
    with _running(data_dir, "api") as client:
        yield client


@contextmanager
def _running(data_dir: Path, *command: str) -> Iterator[httpx2.Client]:
    port = free_ports(1)
    # One key sends all requests.
    rates = {"SFT_RATE_LIMIT_READS": "off", "SFT_RATE_LIMIT_WRITES": "off"}
    environment = {**os.environ, **rates, "SFT_DATA_DIR": str(data_dir)}
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)], env=environment, cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=RESPONSE_SECONDS) as client:
            wait_until(lambda: _is_alive(client), START_SECONDS, f"{command[0]} to respond")
            key = (data_dir / "admin.key").read_text().strip()
            client.headers["Authorization"] = f"Bearer {key}"
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(START_SECONDS)


def _is_alive(client: httpx2.Client) -> bool:
    with suppress(httpx2.HTTPError):
        return client.get("/healthz").is_success
    return False


def wait_until[T](read: Callable[[], T], seconds: float, what: str) -> T:
    """Call `read` until its result is true, and return it. Raises SystemExit after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := read()):
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {seconds:g} s for {what}.")
        time.sleep(_POLL_SECONDS)
    return found
