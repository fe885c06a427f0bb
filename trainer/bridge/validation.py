"""Make validation losses comparable: over all steps of a run, and between runs."""

import itertools
from collections.abc import Iterator
from typing import Any


def install(batches: int) -> None:
    """Use the same `batches` global batches in each validation, and validate before the first step."""
    _same_batches(batches)
    _before_first_step()


def _same_batches(batches: int) -> None:
    """Reuse the same batches: Bridge would use the next samples of the validation set each time."""
    import megatron.bridge.training.setup as setup
    from megatron.core.rerun_state_machine import RerunDataIterator

    original = setup.setup_data_iterators

    def setup_data_iterators(*args: Any, **kwargs: Any) -> Any:
        # A resumed run would continue in the validation set where the last run stopped.
        kwargs["train_state"].consumed_valid_samples = 0
        train, valid, test = original(*args, **kwargs)
        if valid is not None and not isinstance(valid, list):
            valid = RerunDataIterator(_first(valid, batches))
        return train, valid, test

    setup.setup_data_iterators = setup_data_iterators


def _first(iterator: Iterator[Any], batches: int) -> Iterator[Any]:
    """Cycle through the first items. They are read on the first request."""
    kept = [next(iterator) for _ in range(batches)]
    yield from itertools.cycle(kept)


def _before_first_step() -> None:
    """Validate the base model, too: Bridge validates only after training steps."""
    import megatron.bridge.training.pretrain as pretrain
    from megatron.bridge.training.eval import evaluate_and_print_results

    original = pretrain.train

    def train(
        forward_step: Any, model: Any, optimizer: Any, scheduler: Any, train_data: Any, valid_data: Any,
        state: Any, *args: Any, callback_manager: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        if state.train_state.do_valid and state.train_state.step == 0:
            evaluate_and_print_results(
                state, "the base model", forward_step, valid_data, model, state.cfg.model,
                callback_manager=callback_manager,
            )  # fmt: skip
        original(
            forward_step, model, optimizer, scheduler, train_data, valid_data, state, *args,
            callback_manager=callback_manager, **kwargs,
        )  # fmt: skip

    pretrain.train = train
