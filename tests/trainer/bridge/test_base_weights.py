"""What Bridge says of weights that a base lacks, in the trainer's environment."""

import pytest

from tests.support.trainer_runs import need_trainer, trainer_python

pytestmark = pytest.mark.training

# Bridge's two ways to say it, each once more of layers that may be new; its levels are set as a config may.
SAID = """
import logging
from trainer.bridge import compat; compat.install()
from trainer.bridge.base_weights import MissingWeights, reject_missing_weights
from megatron.bridge.models.conversion import model_bridge
from megatron.bridge.training.utils.log_utils import setup_logging
reject_missing_weights()
setup_logging(logging_level=logging.ERROR, filter_warning=True, set_level_for_all_loggers=True)
for said in (
    "WARNING: Can't find {}.weight in hf_keys",
    "WARNING: Can't find the following HF parameters in hf_keys: ['{}.weight', '{}.bias']",
    "WARNING: No mapping found for megatron_param: {}",
):
    for layer in ("mtp.layers.0.norm", "model.norm"):
        try:
            model_bridge.logger.warning(said.replace("{}", layer))
            print("PASSED", layer)
        except MissingWeights as error:
            print("REFUSED", str(error).partition(". ")[0])
"""


def test_they_are_named_unless_they_may_be_new() -> None:
    need_trainer()
    done = trainer_python("-c", SAID)
    said = [line for line in done.stdout.splitlines() if line.startswith(("PASSED", "REFUSED"))]
    assert said == [
        "PASSED mtp.layers.0.norm",
        "REFUSED The base model's files have no weights model.norm.weight",
        "PASSED mtp.layers.0.norm",
        "REFUSED The base model's files have no weights ['model.norm.weight', 'model.norm.bias']",
        "PASSED mtp.layers.0.norm",
        "PASSED model.norm",
    ], done.stderr[-3000:]
