"""Bridge's warnings about missing weights of a base model, in the trainer's environment."""

import pytest

from tests.support.trainer_runs import need_trainer, trainer_python

pytestmark = pytest.mark.training

# Bridge's two warnings and an unrelated one, each also for layers that may be new. The log levels are set as
# a config may set them.
WARN = """
import logging
from trainer.bridge import compat; compat.install()
from trainer.bridge.base_weights import MissingWeights, reject_missing_weights
from megatron.bridge.models.conversion import model_bridge
from megatron.bridge.training.utils.log_utils import setup_logging
reject_missing_weights()
setup_logging(logging_level=logging.ERROR, filter_warning=True, set_level_for_all_loggers=True)
for warning in (
    "WARNING: Can't find {}.weight in hf_keys",
    "WARNING: Can't find the following HF parameters in hf_keys: ['{}.weight', '{}.bias']",
    "WARNING: No mapping found for megatron_param: {}",
):
    for layer in ("mtp.layers.0.norm", "model.norm"):
        try:
            model_bridge.logger.warning(warning.replace("{}", layer))
            print("PASSED", layer)
        except MissingWeights as error:
            print("REJECTED", str(error).partition(". ")[0])
"""


def test_missing_weights_are_rejected_unless_they_may_be_new() -> None:
    need_trainer()
    done = trainer_python("-c", WARN)
    results = [line for line in done.stdout.splitlines() if line.startswith(("PASSED", "REJECTED"))]
    assert results == [
        "PASSED mtp.layers.0.norm",
        "REJECTED The base model's files have no weights model.norm.weight",
        "PASSED mtp.layers.0.norm",
        "REJECTED The base model's files have no weights ['model.norm.weight', 'model.norm.bias']",
        "PASSED mtp.layers.0.norm",
        "PASSED model.norm",
    ], done.stderr[-3000:]
