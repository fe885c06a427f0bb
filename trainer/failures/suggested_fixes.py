"""Suggest changes of one value with which a failed run may succeed. Pure."""

from collections.abc import Iterator

from trainer.config.effective import Effective
from trainer.config.training_config import TrainingConfig
from trainer.suggestion import Suggestion, suggest

RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def suggested_fixes(
    name: str,
    config: TrainingConfig,
    gpus_per_node: int,
    time_limit_minutes: int,
    max_minutes: int,
    *,
    files: bool = True,
) -> Iterator[Suggestion]:
    """Yield changes for a failure (a name in FAILURES), the best first; none if no fix is known.

    The checks of a plan decide whether a change fits the hardware, the model and the data.

    max_minutes: the largest time limit that the cluster allows.
    files: whether this machine can read the files that the config names.
    """
    effective = Effective(config, files=files)
    if config.export and name != "time_limit":
        return  # other fixes concern training
    match name:
        case "oom":
            yield from _smaller_micro_batch(effective)
            yield from _more_tensor_parallel(effective, gpus_per_node)
            yield from _recompute(effective)
        case "host_oom":
            yield from _fewer_workers(effective)
        case "writer_lost":
            yield suggest("checkpoint.async_save", True, False)
        case "time_limit":
            yield from _longer_time_limit(time_limit_minutes, max_minutes)


def _longer_time_limit(current: int, max_minutes: int) -> Iterator[Suggestion]:
    longer = min(2 * current, max_minutes)
    if longer > current:
        yield suggest("resources.time_limit_minutes", current, longer)


def _smaller_micro_batch(effective: Effective) -> Iterator[Suggestion]:
    now = effective.count("train.micro_batch_size")
    if now > 1:
        yield suggest("train.micro_batch_size", now, now // 2)


def _more_tensor_parallel(effective: Effective, gpus_per_node: int) -> Iterator[Suggestion]:
    """Suggest the next sizes that divide a node: across nodes, tensor parallelism is slow."""
    key = "model.tensor_model_parallel_size"
    now = effective.count(key)
    field = effective.pointer(key) if key in effective.given else "/recipe/tensor_model_parallel_size"
    for size in range(2 * now, gpus_per_node + 1, now):
        if gpus_per_node % size == 0:
            yield suggest(field.strip("/").replace("/", "."), now, size)


def _recompute(effective: Effective) -> Iterator[Suggestion]:
    """Suggest recomputing activations instead of keeping them: slower, but it needs less memory."""
    now = {key: effective.get(f"model.{key}") for key in RECOMPUTE}
    if now["recompute_granularity"] != "full":
        yield suggest("model", now, dict(RECOMPUTE))


def _fewer_workers(effective: Effective) -> Iterator[Suggestion]:
    key = "dataset.num_workers"
    # On a CPU there are no workers unless the config sets them.
    now = 0 if effective.config.device == "cpu" and key not in effective.given else effective.count(key, 0)
    if now > 0:
        yield suggest(key, now, now // 2)
