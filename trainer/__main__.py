"""`python -m trainer CONFIG`: one rank of a fine-tuning run, or an export.

The run directory is the directory of the config. An invalid config is reported before torch is imported.
"""

import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import yaml
from pydantic import ValidationError

from trainer.config.section_checks import section_faults
from trainer.config.training_config import TrainingConfig
from trainer.event_writer import EventWriter
from trainer.events import Failed
from trainer.failures import classify
from trainer.path_roots import limited_to_variable
from trainer.preflight import Hardware, check
from trainer.run_layout import RunLayout

TRACEBACK_CHARACTERS = 4000
INVALID_CONFIG_STATUS = 2


def main() -> int:
    path = Path(sys.argv[1]).absolute()
    rank = int(os.environ.get("RANK", "0"))
    _keep_log(RunLayout(path.parent).log(rank))
    events = EventWriter(path.parent, rank)
    config = _read(path, events)
    if config is None:
        return INVALID_CONFIG_STATUS
    _set_up_single_rank()
    try:
        _run(config, events)
    except BaseException as error:
        events.end(Failed(code=classify(_tail()), message=_message(error), traceback=_tail()))
        raise
    return 0


def _run(config: TrainingConfig, events: EventWriter) -> None:
    if config.export:
        from trainer.bridge.export import export

        export(config, events)
    else:
        from trainer.bridge.train import train

        train(config, events)


def _keep_log(path: Path) -> None:
    """Copy all output, including that of child processes and C libraries, to this rank's log file.

    Another process copies: it ends after the last byte, even if this process is killed.
    """
    path.parent.mkdir(exist_ok=True)
    tee = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE)
    assert tee.stdin is not None
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(tee.stdin.fileno(), descriptor)
    tee.stdin.close()


def _read(path: Path, events: EventWriter) -> TrainingConfig | None:
    """Read and check the config. If it is invalid, write the failure and return None."""
    try:
        config = TrainingConfig.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        _reject(events, "invalid_config", str(error))
        return None
    with limited_to_variable(os.environ, config.export.checkpoint if config.export else None):
        return config if _may_run(config, events) else None


def _may_run(config: TrainingConfig, events: EventWriter) -> bool:
    """Check a config. If it cannot run, write the failure."""
    faults = section_faults(config)
    if faults:
        _reject(events, "invalid_config", _with_hint(faults[0].detail, faults[0].hint))
        return False
    for finding in check(config, _hardware()):
        if finding.severity == "error":
            _reject(events, finding.code, _with_hint(finding.message, finding.hint))
            return False
    return True


def _with_hint(message: str, hint: str | None) -> str:
    return f"{message} {hint or ''}".strip()


def _hardware() -> Hardware:
    """Nodes and GPUs from torchrun's environment. The type of the GPUs is known only to the service."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return Hardware(nodes=ranks // here, gpus_per_node=here)


def _reject(events: EventWriter, code: str, message: str) -> None:
    print(f"trainer: {message}", file=sys.stderr, flush=True)
    events.end(Failed(code=code, message=message))


def _set_up_single_rank() -> None:
    """Without torchrun, set up a world of one rank on a free port."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    single_rank = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in single_rank.items()})


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:TRACEBACK_CHARACTERS]


def _tail() -> str:
    return traceback.format_exc()[-TRACEBACK_CHARACTERS:]


if __name__ == "__main__":
    sys.exit(main())
