"""`torchrun -m bench.gpu.bare CONFIG`: run Bridge's finetune() alone, on the trainer's ConfigContainer."""

import sys
from pathlib import Path

import yaml

from trainer.bridge import compat
from trainer.config.training_config import TrainingConfig


def main() -> None:
    config = TrainingConfig.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))
    compat.install()
    from megatron.bridge.training.finetune import finetune
    from megatron.bridge.training.gpt_step import forward_step

    compat.keep_compiled_helpers()
    from trainer.bridge import container

    finetune(container.build(config), forward_step)


if __name__ == "__main__":
    main()
