"""What is reported of saves, in the trainer's environment."""

import json
from pathlib import Path

import pytest

from tests.support.checkpoint_files import save
from tests.support.trainer_runs import need_trainer, trainer_python

pytestmark = pytest.mark.training

# As Bridge calls: of a save in the background when it is whole, and the run has gone on meanwhile.
CALL = """
import sys
from pathlib import Path
from types import SimpleNamespace as Of
from trainer.bridge import compat; compat.install()
from trainer.event_writer import EventWriter
from trainer.bridge.callbacks import Report
run, saves, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
report = Report(EventWriter(run, 0), is_reporter=True, world_size=1)
def saved(where):
    state = Of(train_state=Of(step=step), cfg=Of(checkpoint=Of(save=where)))
    report.on_checkpoint_save(Of(state=state))
saved(str(run / "none"))  # a save of another kind
saved(saves)
saved(saves)  # and again one
print("SAVED", report.saved_iteration)
"""


def test_a_save_in_the_background_is_reported_as_the_one_that_it_is(tmp_path: Path) -> None:
    need_trainer()
    path = save(tmp_path / "checkpoints", 8)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("8")
    done = trainer_python("-c", CALL, str(tmp_path), str(tmp_path / "checkpoints"), "10")
    assert done.returncode == 0, done.stderr
    assert "SAVED 8" in done.stdout
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["iteration"], event["path"]) == ("checkpoint", 8, str(path))


# The parameters are counted on a GPU; what is asked here is whether the writer is looked after.
BEGIN = """
import sys
from pathlib import Path
from types import SimpleNamespace as Of
from trainer.bridge import compat; compat.install()
from trainer.bridge import callbacks as report
from trainer.event_writer import EventWriter
report._count_parameters = lambda model: 0
state = Of(train_state=Of(step=0), cfg=Of(
    checkpoint=Of(async_save=sys.argv[2] == "True"), model=Of(seq_length=8),
    train=Of(train_iters=1, global_batch_size=1),
))
made = report.Report(EventWriter(Path(sys.argv[1]), 0), is_reporter=True, world_size=1)
made.on_data_init_start(Of(state=state, model=[]))
"""


@pytest.mark.parametrize("in_background", [True, False])
def test_a_run_that_saves_in_the_background_begins_with_a_writer(tmp_path: Path, in_background: bool) -> None:
    need_trainer()
    done = trainer_python("-c", BEGIN, str(tmp_path), str(in_background))
    assert done.returncode == in_background, done.stderr
    [event] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert event.get("code") == ("writer_lost" if in_background else None)
