"""The command `sft` with its own environment."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.trainer_runs import PROJECT

COMMAND = [sys.executable, "-m", "cli"]


@dataclass
class Sft:
    """Runs the command for one service, and checks that it prints no traceback."""

    url: str
    key: str | None = "sft_test"
    cwd: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        own = ("SFT_", "DATABASE_URL", "REDIS_URL")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        key = {"SFT_API_KEY": self.key} if self.key else {}
        return {**inherited, "PYTHONPATH": str(PROJECT), "SFT_URL": self.url, **key, **self.variables}

    def __call__(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment(), cwd=self.cwd, input=given, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert "Traceback (most" not in done.stderr + done.stdout, done.stderr
        assert self.key is None or self.key not in done.stderr + done.stdout
        return done

    def start(self, *arguments: str, **pipes: Any) -> subprocess.Popen[str]:
        """Start the command; it receives Ctrl-C even if the tests ignore it."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        return subprocess.Popen(
            [*COMMAND, *arguments], env=self.environment(), cwd=self.cwd, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes,
        )  # fmt: skip

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Return the JSON document that a command prints."""
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)
