"""Write events from Bridge's callbacks, and observe stop requests."""

import signal
import time
from pathlib import Path
from typing import Any

from megatron.bridge.training.callbacks import Callback, CallbackContext

from trainer.bridge import checkpoint_writer
from trainer.checkpoints import (
    files_of,
    is_complete,
    iteration_directory,
    iteration_of,
    tracked_iteration,
)
from trainer.event_writer import EventWriter
from trainer.events import CheckpointSaved, Started, StepDone, Stopping, Validated

LOSS = "lm loss"


class EventCallback(Callback):  # type: ignore[misc]
    """Writes events on the reporter: the last rank, which is in the last pipeline stage."""

    def __init__(self, events: EventWriter, *, is_reporter: bool, world_size: int) -> None:
        self.events = events
        self.is_reporter = is_reporter
        self.world_size = world_size
        self.stop_reason: str | None = None
        self.saved_iteration: int | None = None
        self.last_step = 0
        self._began = 0.0
        self._flops_before = 0.0
        self._unlogged: CallbackContext | None = None
        """A finished step that Bridge has not yet counted and logged."""
        self._validated: set[int] = set()

    def install(self) -> None:
        """Flush after Bridge has logged a step: its callbacks run before that, or after a save."""
        import megatron.bridge.training.train as loop

        original = loop.training_log

        def training_log(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.flush()
            return result

        loop.training_log = training_log

    def on_data_init_start(self, context: CallbackContext) -> None:
        config, state = context.state.cfg, context.state.train_state
        parameters = _count_parameters(context.model)
        self.last_step = state.step
        if config.checkpoint.async_save:
            checkpoint_writer.watch(self.events)
        if self.is_reporter:
            started = Started(
                start_step=state.step,
                total_steps=config.train.train_iters,
                world_size=self.world_size,
                global_batch_size=config.train.global_batch_size,
                seq_length=config.model.seq_length,
                parameters=parameters,
            )
            self.events.write(started)

    def on_train_step_start(self, context: CallbackContext) -> None:
        self.flush()
        self._began = time.perf_counter()
        self._flops_before = context.state.train_state.floating_point_operations_so_far

    def on_train_step_end(self, context: CallbackContext) -> None:
        # Bridge counts the step after this callback.
        self.last_step = context.state.train_state.step + 1
        self._unlogged = context
        self._observe_stop_request()

    def flush(self) -> None:
        """Write the event of the last finished step, if it is not yet written."""
        if self._unlogged is not None and self.is_reporter:
            self._write_step(self._unlogged, time.perf_counter() - self._began)
        self._unlogged = None

    def _write_step(self, context: CallbackContext, seconds: float) -> None:
        """Write the values of Bridge's log line of a step. seconds: from the step's start to that line."""
        state, config = context.state.train_state, context.state.cfg
        tokens = config.train.global_batch_size * config.model.seq_length
        flops = state.floating_point_operations_so_far - self._flops_before
        grad_norm = context.grad_norm
        done = StepDone(
            step=self.last_step,
            loss=_loss(context.loss_dict),
            learning_rate=context.optimizer.param_groups[0]["lr"] if context.optimizer else None,
            grad_norm=float(grad_norm) if grad_norm is not None else None,
            step_time_seconds=round(seconds, 6),
            tokens_per_second_per_gpu=round(tokens / seconds / self.world_size, 1),
            tflops_per_gpu=round(flops / seconds / self.world_size / 1e12, 3),
            peak_memory_gib=_peak_memory_gib(),
            consumed_samples=state.consumed_train_samples,
        )
        self.events.write(done)

    def _observe_stop_request(self) -> None:
        """Pass a stop request to Bridge as a SIGTERM: Bridge stops all ranks once one has received it."""
        if self.stop_reason is None and (reason := self.events.stop_reason()):
            self.stop_reason = reason
            if self.is_reporter:
                self.events.write(Stopping(step=self.last_step, reason=reason))
            signal.raise_signal(signal.SIGTERM)

    def on_eval_start(self, context: CallbackContext) -> None:  # noqa: ARG002
        self.flush()

    def on_eval_end(self, context: CallbackContext) -> None:
        step = context.state.train_state.step
        # Bridge validates once more after the last step, with the same result.
        if self.is_reporter and step not in self._validated and context.total_loss_dict:
            self._validated.add(step)
            self.events.write(Validated(step=step, loss=_loss(context.total_loss_dict)))

    def on_checkpoint_save(self, context: CallbackContext) -> None:
        """Report a complete save. If it was async, its step is an earlier one, which the tracker file has."""
        self.flush()
        directory = Path(context.state.cfg.checkpoint.save)
        iteration = tracked_iteration(directory)
        if iteration is None or iteration == self.saved_iteration:
            return  # a non-persistent save (checkpoint.non_persistent_*), which is not used for resuming
        self.saved_iteration = iteration
        path = iteration_directory(directory, iteration)
        if self.is_reporter and is_complete(path):
            self._write_checkpoint(path)

    def _write_checkpoint(self, path: Path) -> None:
        files = files_of(path)
        size = sum(file.bytes for file in files)
        saved = CheckpointSaved(iteration=iteration_of(path), path=str(path), bytes=size, files=files)
        self.events.write(saved)


def _peak_memory_gib() -> float | None:
    """Peak memory that torch has reserved on this rank's GPU, in GiB; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    return round(int(torch.cuda.max_memory_reserved()) / 2**30, 2)


def _loss(losses: dict[str, Any] | None) -> float | None:
    value = (losses or {}).get(LOSS)
    return float(value) if value is not None else None


def _count_parameters(model: list[Any]) -> int:
    """Number of parameters of the complete model, each counted once over all model-parallel ranks."""
    import torch
    from megatron.core import parallel_state

    is_first = parallel_state.get_tensor_model_parallel_rank() == 0
    own = sum(
        int(parameter.numel())
        for chunk in model
        for parameter in chunk.parameters()
        # Parameters that are not split are replicated on all tensor-parallel ranks.
        if is_first or getattr(parameter, "tensor_model_parallel", False)
    )
    total = torch.tensor([own], dtype=torch.int64, device="cuda")
    torch.distributed.all_reduce(total, group=parallel_state.get_model_parallel_group())
    return int(total.item())
