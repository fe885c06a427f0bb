"""Events of saves, in the trainer's environment."""

import json
from pathlib import Path

import pytest

from tests.support.checkpoint_files import save
from tests.support.trainer_runs import need_trainer, trainer_python

pytestmark = pytest.mark.training

# Like Bridge, call the callback for an async save when the save is complete and the run has continued.
CALL = """
import sys
from pathlib import Path
from types import SimpleNamespace as Of
from trainer.bridge import compat; compat.install()
from trainer.event_writer import EventWriter
from trainer.bridge.callbacks import EventCallback
run, saves, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
callback = EventCallback(EventWriter(run, 0), is_reporter=True, world_size=1)
def saved(where):
    state = Of(train_state=Of(step=step), cfg=Of(checkpoint=Of(save=where)))
    callback.on_checkpoint_save(Of(state=state))
saved(str(run / "none"))  # a non-persistent save
saved(saves)
saved(saves)  # another non-persistent save
print("SAVED", callback.saved_iteration)
"""


def test_an_async_save_is_reported_with_its_own_iteration(tmp_path: Path) -> None:
    need_trainer()
    path = save(tmp_path / "checkpoints", 8)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("8")
    done = trainer_python("-c", CALL, str(tmp_path), str(tmp_path / "checkpoints"), "10")
    assert done.returncode == 0, done.stderr
    assert "SAVED 8" in done.stdout
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["iteration"], event["path"]) == ("checkpoint", 8, str(path))


# Parameters are counted on a GPU, so that is replaced. The test is about watching the writer.
BEGIN = """
import sys
from pathlib import Path
from types import SimpleNamespace as Of
from trainer.bridge import compat; compat.install()
from trainer.bridge import callbacks
from trainer.event_writer import EventWriter
callbacks._count_parameters = lambda model: 0
state = Of(train_state=Of(step=0), cfg=Of(
    checkpoint=Of(async_save=sys.argv[2] == "True"), model=Of(seq_length=8),
    train=Of(train_iters=1, global_batch_size=1),
))
callback = callbacks.EventCallback(EventWriter(Path(sys.argv[1]), 0), is_reporter=True, world_size=1)
callback.on_data_init_start(Of(state=state, model=[]))
"""


@pytest.mark.parametrize("async_save", [True, False])
def test_a_run_with_async_saves_fails_without_a_writer(tmp_path: Path, async_save: bool) -> None:
    need_trainer()
    done = trainer_python("-c", BEGIN, str(tmp_path), str(async_save))
    assert done.returncode == async_save, done.stderr
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert event.get("code") == ("writer_lost" if async_save else None)
