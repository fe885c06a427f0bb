"""In the trainer's environment: tokenize records as the packer does, and as the reference with transformers.

`python -m tests.trainer.packing.tokenized DIR < cases.json` writes a tokenizer to DIR, and prints for each
case what both give. A case has a record, options, and the text of a template (null: the tokenizer's own).
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.trainer.packing.reference import reference
from trainer.packing.bad_records import BadRecord
from trainer.packing.formats import conversation_of
from trainer.packing.sequences import RecordOptions, SequenceMaker
from trainer.packing.tokenizer import Tokenizer

SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
WORDS = "They ask for lists. A sequence. No order. What is a set? And a list? <function=weather> 12 \n\n Bonn"


def main(directory: Path) -> None:
    theirs = make_tokenizer(directory)
    ours = Tokenizer.load(directory)
    print(json.dumps([_compare(case, ours, theirs) for case in json.load(sys.stdin)]))


def make_tokenizer(directory: Path) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator([WORDS] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    fast.chat_template = "{% for m in messages %}{{ m.role ~ eos_token }}{% endfor %}"
    fast.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def _compare(case: dict[str, Any], ours: Tokenizer, theirs: Any) -> dict[str, Any]:
    maker = SequenceMaker(ours, RecordOptions(chat_template=case["template"], **case.get("options", {})))
    rendered: list[Any] = []
    chunks = maker.chunks
    maker.chunks = lambda conversation: (rendered.append(one) or one for one in chunks(conversation))  # type: ignore[method-assign, func-returns-value]
    try:
        made = maker(json.dumps(case["record"]).encode())
    except BadRecord as error:
        return {"reason": error.reason, "message": str(error)}
    result = {
        "ours": [{"ids": sequence.ids, "mask": sequence.mask} for sequence in made],
        "special_in_content": maker.special_in_content,
        "cut": maker.cut,
        "rendered_sequences": len(rendered),
    }
    if case["template"] is not None:
        result |= {"theirs": _reference(case, theirs), "rendered": _rendered(case, theirs)}
    return result


def _reference(case: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    conversation = conversation_of(case["record"])
    sequences = []
    for pieces in reference(conversation.messages, case["template"], conversation.tools):
        encoded = [(tokenizer.encode(text, add_special_tokens=False), trained) for text, trained in pieces]
        is_trained = [int(trained) for ids, trained in encoded for _ in ids]
        sequences.append(
            {"ids": [token for ids, _ in encoded for token in ids], "mask": [*is_trained[1:], 0]}
        )
    return [sequence for sequence in sequences if any(sequence["mask"])]


def _rendered(case: dict[str, Any], tokenizer: Any) -> list[int]:
    """What apply_chat_template makes of the complete conversation."""
    conversation = conversation_of(case["record"])
    thinking = any(message.get("reasoning_content") for message in conversation.messages)
    text = tokenizer.apply_chat_template(
        conversation.messages, tools=conversation.tools, chat_template=case["template"], tokenize=False,
        enable_thinking=thinking,
    )  # fmt: skip
    return list(tokenizer.encode(text, add_special_tokens=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
