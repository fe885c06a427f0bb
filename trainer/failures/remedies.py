"""Changes of one value with which a failed run may succeed. Pure; the best comes first."""

from collections.abc import Iterator

from trainer.config import TrainingConfig
from trainer.suggestion import Suggestion, suggest

DEFAULT_WORKERS = 2
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def remedies(
    name: str, config: TrainingConfig, gpus_per_node: int, time_limit_minutes: int, most_minutes: int
) -> Iterator[Suggestion]:
    """Changes for a failure of this name (of FAILURES); none where nothing sound is known.

    Whether one fits the hardware, the model and the data is for the checks of a plan to say.
    """
    match name:
        case "oom":
            yield from _smaller_micro_batch(config)
            yield from _more_tensor_parallel(config, gpus_per_node)
            yield from _recompute(config)
        case "bad_parallel_batch_shape":
            yield from _micro_batch_of_packs(config)
        case "host_oom":
            yield from _fewer_workers(config)
        case "time_limit":
            longer = min(2 * time_limit_minutes, most_minutes)
            if longer > time_limit_minutes:
                yield suggest("resources.time_limit_minutes", time_limit_minutes, longer)


def _smaller_micro_batch(config: TrainingConfig) -> Iterator[Suggestion]:
    now = config.train.get("micro_batch_size")
    if isinstance(now, int) and now > 1:
        yield suggest("train.micro_batch_size", now, now // 2)


def _micro_batch_of_packs(config: TrainingConfig) -> Iterator[Suggestion]:
    """Each pack is a micro batch by itself."""
    now = config.train.get("micro_batch_size")
    if isinstance(now, int) and now > 1:
        yield suggest("train.micro_batch_size", now, 1)


def _more_tensor_parallel(config: TrainingConfig, gpus_per_node: int) -> Iterator[Suggestion]:
    """The next sizes that a node has GPUs for. Where none is set the model's own is not known."""
    now = config.recipe.tensor_model_parallel_size
    if now is None:
        return
    for size in range(2 * now, gpus_per_node + 1, now):
        if gpus_per_node % size == 0:
            yield suggest("recipe.tensor_model_parallel_size", now, size)


def _recompute(config: TrainingConfig) -> Iterator[Suggestion]:
    """Activations are computed again instead of kept: slower, and it fits."""
    now = {key: config.model[key] for key in RECOMPUTE if key in config.model}
    if now.get("recompute_granularity") != "full":
        yield suggest("model", now, dict(RECOMPUTE))


def _fewer_workers(config: TrainingConfig) -> Iterator[Suggestion]:
    extra = config.dataset.model_extra or {}
    now = extra.get("num_workers", 0 if config.device == "cpu" else DEFAULT_WORKERS)
    if isinstance(now, int) and now > 0:
        yield suggest("dataset.num_workers", now, now // 2)
