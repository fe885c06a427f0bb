"""Training examples for a small model, and a check whether it has learned them."""

import json
from pathlib import Path
from typing import Any

from tests.support.trainer_runs import trainer_python

Config = dict[str, Any]

TAUGHT = {
    "What does abs do?": "Returns the absolute value of a number.",
    "How do I open a file?": "Use open(path) inside a with statement.",
    "What is a tuple?": "An immutable sequence of values.",
    "Name a stable sort.": "Timsort, which list.sort uses.",
}
# The adapter's training examples shift the answers: each belongs to the previous question.
MOVED = dict(zip(TAUGHT, [*list(TAUGHT.values())[1:], next(iter(TAUGHT.values()))], strict=True))

ANSWER_SCRIPT = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
answers = {}
for question in json.loads(sys.argv[2]):
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0][inputs["input_ids"].shape[1]:]
    answers[question] = tokenizer.decode(output, skip_special_tokens=True)
print(json.dumps({"dtype": str(model.dtype), "answers": answers}))
"""


def answers(model: Path) -> Config:
    """Return a Hugging Face model's greedy answers to the questions, and the precision of its weights."""
    done = trainer_python("-c", ANSWER_SCRIPT, str(model), json.dumps(list(TAUGHT)))
    assert done.returncode == 0, done.stderr
    result: Config = json.loads(done.stdout.splitlines()[-1])
    return result
