"""An example of each event of a run, with all of its fields."""

from datetime import UTC, datetime

from trainer.events import (
    CheckpointSaved,
    Ending,
    Failed,
    Finished,
    RunEvent,
    SavedFile,
    Started,
    StepDone,
    Stopped,
    Stopping,
    Validated,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILES = [SavedFile(path="__0_0.distcp", bytes=7_000_000_000), SavedFile(path="train_state.pt", bytes=1000)]

ENDINGS: dict[str, Ending] = {
    "finished": Finished(step=50, iteration=50),
    "stopped": Stopped(step=7, iteration=7, reason="time limit"),
    "failed": Failed(code="oom", message="CUDA out of memory.", traceback="Traceback ..."),
}
EXAMPLES: dict[str, RunEvent] = {
    "started": Started(
        start_step=0, total_steps=50, world_size=8, global_batch_size=64, seq_length=4096,
        parameters=31_577_940_288,
    ),
    "step": StepDone(
        step=1, loss=7.643, learning_rate=1e-5, grad_norm=None, step_time_seconds=0.51,
        tokens_per_second_per_gpu=8031.4, tflops_per_gpu=412.5, peak_memory_gib=61.25, consumed_samples=64,
    ),
    "validation": Validated(step=0, loss=7.635),
    "checkpoint": CheckpointSaved(
        iteration=25, path="/jobs/job-1/checkpoints/iter_0000025", bytes=7_000_001_000, files=FILES
    ),
    "export": CheckpointSaved(
        iteration=25, path="/jobs/job-2/hf/iter_0000025", format="huggingface", bytes=7_000_001_000,
        files=FILES,
    ),
    "stopping": Stopping(step=7, reason="time limit"),
    **ENDINGS,
}  # fmt: skip
