"""NVIDIA's SDK of Lepton in its own process, to check the server and the service's jobs on it.

Its exact versions are in sdk-requirements.txt:

    echo leptonai==0.47.1 | .venv/bin/uv pip compile --no-header --no-annotate --no-emit-index-url \
        - -o tests/support/lepton/sdk-requirements.txt
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tests.support.environments import made
from tests.support.lepton.server.server import LeptonServer

HERE = Path(__file__).parent


class SdkError(Exception):
    """An exception of the SDK: its name and message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Sdk:
    """A process that calls the SDK: `sdk(server, "job.get", id_or_job="r1")` is the SDK's answer as JSON."""

    def __init__(self, home: Path) -> None:
        """home: directory for the SDK's files."""
        # Without this file the command would query PyPI for a newer version of itself.
        (home / "latest_version_check").write_text(str(time.time()))
        self.home, self.programs = home, made(".venv-lepton-sdk", HERE / "sdk-requirements.txt")
        self._process = subprocess.Popen(
            [str(self.programs / "python"), str(HERE / "sdk_script.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment(),
        )  # fmt: skip

    def __call__(
        self,
        server: LeptonServer,
        function: str,
        *,
        until: str | None = None,
        token: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Call a function such as job.list_all. until: read a stream up to this text. Raises SdkError."""
        request = {
            "workspace": server.workspace.id, "url": server.url, "token": token or server.token,
            "function": function, "arguments": arguments, "until": until,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise SdkError(answer["error"], answer["message"])
        return answer["answer"]

    def lep(self, server: LeptonServer, *arguments: str) -> str:
        """Run the SDK's command; return its output. Raises subprocess.CalledProcessError."""
        workspace = {
            "LEPTON_WORKSPACE_ID": server.workspace.id,
            "LEPTON_WORKSPACE_TOKEN": server.token,
            "LEPTON_WORKSPACE_URL": server.url,
        }
        return subprocess.run(
            [str(self.programs / "lep"), *arguments],
            env=self._environment() | workspace, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LEPTON_CACHE_DIR": str(self.home)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()
