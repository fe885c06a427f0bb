"""Cut a rendered conversation into chunks, some of them trained: the rules of NVIDIA's data_prep/sft_packing.

Templates drop the reasoning of earlier turns. A conversation with reasoning is therefore one sequence for
each user turn, rendered up to the next one, of which only what follows that user turn is trained. Without
reasoning it is one sequence, with every turn of the assistant trained.

The chunks are found by rendering ever longer prefixes of the conversation. The generation prompt, which the
model does not write, belongs to the chunk before the assistant's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.formats import Conversation
from trainer.packing.messages import Message
from trainer.packing.template_rendering import ChatTemplate, RenderError

END_OF_TURN = "<|im_end|>\n"
SYSTEM, USER = "<|im_start|>system", "<|im_start|>user"
# How templates of Nemotron 3 begin a turn without reasoning; their generation prompt opens <think> instead.
NO_THOUGHT, THOUGHT_END = "<think></think>", "</think>"
NO_REASONING = f"<|im_start|>assistant\n{NO_THOUGHT}"
ASSISTANT = "assistant"


class MaskRule(StrEnum):
    """Which tokens are trained."""

    ASSISTANT = "assistant"
    LAST_TURN = "last_turn"
    ALL = "all"


@dataclass(frozen=True)
class Chunk:
    """A part of a rendered conversation, which is encoded by itself."""

    role: str
    text: str
    trained: bool


def chunks_of(conversation: Conversation, template: ChatTemplate, mask: MaskRule) -> Iterator[list[Chunk]]:
    """Yield the chunks of each sequence that a conversation gives, one after the other. Raises BadRecord."""
    sequences = _sequences(conversation, template, only_last=mask is not MaskRule.ASSISTANT)
    try:
        yield from map(_MASKED[mask], sequences)
    except RenderError as error:
        raise BadRecord(BadReason.TEMPLATE_ERROR, str(error)) from None


def _last_turn(chunks: list[Chunk]) -> list[Chunk]:
    """Train only what follows the last user turn that is answered."""
    answer = max((i for i, chunk in enumerate(chunks) if chunk.role == ASSISTANT), default=0)
    asked = max((i for i, chunk in enumerate(chunks[:answer]) if chunk.role == "user"), default=-1)
    return [Chunk(chunk.role, chunk.text, chunk.trained and i > asked) for i, chunk in enumerate(chunks)]


def _all(chunks: list[Chunk]) -> list[Chunk]:
    """Train everything but the answers whose weight is 0."""
    return [Chunk(chunk.role, chunk.text, chunk.trained or chunk.role != ASSISTANT) for chunk in chunks]


_MASKED: dict[MaskRule, Callable[[list[Chunk]], list[Chunk]]] = {
    MaskRule.ASSISTANT: lambda chunks: chunks,
    MaskRule.LAST_TURN: _last_turn,
    MaskRule.ALL: _all,
}


def _sequences(
    conversation: Conversation, template: ChatTemplate, *, only_last: bool
) -> Iterator[list[Chunk]]:
    messages = conversation.messages
    if not any(message.get("reasoning_content") for message in messages):
        yield _Renderer(conversation, template, messages, thinking=False).all_turns()
        return
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    answered = [(user, end) for user, end in pairwise([*users, len(messages)]) if user + 1 < end]
    for user, end in answered[-1:] if only_last else answered:
        yield _Renderer(conversation, template, messages[:end], thinking=True).from_turn(user)


class _Renderer:
    """Cuts the text of some messages, by rendering prefixes of them."""

    def __init__(
        self, conversation: Conversation, template: ChatTemplate, messages: list[Message], *, thinking: bool
    ) -> None:
        self.conversation, self.template = conversation, template
        self.messages, self.thinking = messages, thinking
        self.text = self.render(len(messages))

    def render(self, count: int, *, add_generation_prompt: bool = False) -> str:
        """Render the first messages."""
        return self.template.render(
            self.messages[:count],
            tools=self.conversation.tools,
            enable_thinking=self.thinking,
            add_generation_prompt=add_generation_prompt,
        )

    def all_turns(self) -> list[Chunk]:
        """Cut the complete text."""
        first, *others = self.turns(0, begin=0)
        return [*_without_added_system(first), *others]

    def from_turn(self, user: int) -> list[Chunk]:
        """Cut what follows a user turn; all before it is a chunk for the system and a chunk for the rest."""
        prefix = self._prefix(user, prompted=True)
        # Of Nemotron's templates, NVIDIA's step does not check it here.
        if NO_THOUGHT not in self.template.text and not self.text.startswith(prefix.rstrip()):
            raise self._mismatch(user)
        begin = len(prefix)
        system = _end_of_first_turn(self.text)
        context = [Chunk("system", self.text[:system], False), Chunk("user", self.text[system:begin], False)]
        return [*context, *self.turns(user + 1, begin=begin)]

    def turns(self, first: int, begin: int) -> list[Chunk]:
        """Cut the text from `begin` into chunks, from a message on. Consecutive results of tools are one."""
        chunks = []
        for place in range(first, len(self.messages)):
            if self._role(place) == "tool" and self._role(place + 1) == "tool":
                continue
            end = self._end_of(place)
            message = self.messages[place]
            trained = message["role"] == ASSISTANT and place not in self.conversation.untrained
            chunks.append(Chunk(message["role"], self.text[begin:end], trained))
            begin = end
        return chunks

    def _end_of(self, place: int) -> int:
        """Return where a message ends in the text. Raises BadRecord if its prefix is not in the text."""
        if place == len(self.messages) - 1:
            return len(self.text)
        answered = self._role(place + 1) == ASSISTANT
        prefix = self._prefix(place, prompted=answered and self._role(place) in ("user", "tool"))
        if self.text.startswith(prefix):
            return len(prefix)
        # Some generation prompts end with white space that the answered turn has not.
        if (prefix := prefix.rstrip()) and self.text.startswith(prefix):
            return len(prefix)
        raise self._mismatch(place)

    def _mismatch(self, place: int) -> BadRecord:
        message = f"The chat template renders message {place + 1} otherwise when later messages follow."
        if any(THOUGHT_END in one["content"] for one in self.messages):
            message += f" A content has {THOUGHT_END}: move what stands before it to reasoning_content."
        return BadRecord(BadReason.TEMPLATE_MISMATCH, message)

    def _prefix(self, place: int, *, prompted: bool) -> str:
        """Render up to a message, and the generation prompt of the answer that follows it."""
        answer = self.messages[place + 1] if place + 1 < len(self.messages) else {}
        if (
            self.thinking
            and self._role(place) != ASSISTANT
            and answer.get("role") == ASSISTANT
            and not _has_reasoning(answer)
        ):
            return self.render(place + 1) + NO_REASONING
        return self.render(place + 1, add_generation_prompt=prompted)

    def _role(self, place: int) -> str | None:
        return self.messages[place]["role"] if place < len(self.messages) else None


def _has_reasoning(message: Message) -> bool:
    """Whether templates render the reasoning: white space alone is rendered as none."""
    reasoning = message.get("reasoning_content")
    return isinstance(reasoning, str) and bool(reasoning.strip())


def _end_of_first_turn(text: str) -> int:
    return text.find(END_OF_TURN) + len(END_OF_TURN) if END_OF_TURN in text else 0


def _without_added_system(chunk: Chunk) -> list[Chunk]:
    """Split a first user turn before which the template has put a system turn of its own."""
    end = _end_of_first_turn(chunk.text)
    if chunk.role != "user" or SYSTEM not in chunk.text[:end] or USER not in chunk.text[end:]:
        return [chunk]
    return [Chunk("system", chunk.text[:end], False), Chunk("user", chunk.text[end:], False)]
