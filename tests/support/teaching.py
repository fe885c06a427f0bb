"""Lessons for a small model, and the question whether it has learned them."""

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
# What the adapter teaches: that every answer belongs to the question before.
MOVED = dict(zip(TAUGHT, [*list(TAUGHT.values())[1:], next(iter(TAUGHT.values()))], strict=True))

ASK = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
answers = {}
for question in json.loads(sys.argv[2]):
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    asked = tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    said = model.generate(**asked, max_new_tokens=60, do_sample=False)[0][asked["input_ids"].shape[1]:]
    answers[question] = tokenizer.decode(said, skip_special_tokens=True)
print(json.dumps({"dtype": str(model.dtype), "answers": answers}))
"""


def answers(model: Path) -> Config:
    """Greedy answers of a Hugging Face directory to the questions, and the precision that it is loaded in."""
    done = trainer_python("-c", ASK, str(model), json.dumps(list(TAUGHT)))
    assert done.returncode == 0, done.stderr
    said: Config = json.loads(done.stdout.splitlines()[-1])
    return said
