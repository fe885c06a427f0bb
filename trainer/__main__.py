"""`python -m trainer CONFIG`: one rank of a fine-tuning run, or an export.

The run directory is the config's own. What is wrong with a config is said before torch is imported.
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
from trainer.failures import name_of
from trainer.preflight import Hardware, check
from trainer.run_layout import RunLayout

TRACEBACK_CHARACTERS = 4000
INVALID = 2


def main() -> int:
    path = Path(sys.argv[1]).absolute()
    rank = int(os.environ.get("RANK", "0"))
    _keep_log(RunLayout(path.parent).log(rank))
    events = EventWriter(path.parent, rank)
    config = _read(path, events)
    if config is None:
        return INVALID
    _rendezvous_alone()
    try:
        _run(config, events)
    except BaseException as error:
        events.end(Failed(code=name_of(_tail()), message=_message(error), traceback=_tail()))
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
    """Copy all output, that of child processes and C libraries too, to this rank's own file.

    The copying is done by another process: it ends after the last byte, even if this one is killed.
    """
    path.parent.mkdir(exist_ok=True)
    tee = subprocess.Popen(["tee", "-a", str(path)], stdin=subprocess.PIPE)
    assert tee.stdin is not None
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(tee.stdin.fileno(), descriptor)
    tee.stdin.close()


def _read(path: Path, events: EventWriter) -> TrainingConfig | None:
    """The config, if a run can begin with it; else the failure is written."""
    try:
        config = TrainingConfig.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        _refuse(events, "invalid_config", str(error))
        return None
    wrong = section_faults(config)
    if wrong:
        _refuse(events, "invalid_config", _in_words(wrong[0].detail, wrong[0].hint))
        return None
    for finding in check(config, _hardware()):
        if finding.severity == "error":
            _refuse(events, finding.code, _in_words(finding.message, finding.hint))
            return None
    return config


def _in_words(message: str, hint: str | None) -> str:
    return f"{message} {hint or ''}".strip()


def _hardware() -> Hardware:
    """As torchrun tells it; what the GPUs are is left to the service."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return Hardware(nodes=ranks // here, gpus_per_node=here)


def _refuse(events: EventWriter, code: str, message: str) -> None:
    print(f"trainer: {message}", file=sys.stderr, flush=True)
    events.end(Failed(code=code, message=message))


def _rendezvous_alone() -> None:
    """Started without torchrun: a world of one rank, on a port of its own."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in alone.items()})


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:TRACEBACK_CHARACTERS]


def _tail() -> str:
    return traceback.format_exc()[-TRACEBACK_CHARACTERS:]


if __name__ == "__main__":
    sys.exit(main())
