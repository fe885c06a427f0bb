"""Cut a rendered conversation into chunks, some of them trained: the rules of NVIDIA's data_prep/sft_packing.

Templates drop the reasoning of earlier turns. A conversation with reasoning is therefore one sequence for
each user turn, rendered up to the next one, of which only what follows that user turn is trained. Without
reasoning it is one sequence, with every turn of the assistant trained.

The chunks are found by rendering ever longer prefixes of the conversation. The generation prompt, which the
model does not write, belongs to the chunk before the assistant's.
"""

from collections.abc import Iterator
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
NO_REASONING = "<|im_start|>assistant\n<think></think>"


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


def chunks_of(conversation: Conversation, template: ChatTemplate, mask: MaskRule) -> list[list[Chunk]]:
    """Return the chunks of each sequence that a conversation gives. Raises BadRecord."""
    try:
        sequences = list(_sequences(conversation, template))
    except RenderError as error:
        raise BadRecord(BadReason.TEMPLATE_ERROR, str(error)) from None
    if mask is MaskRule.ASSISTANT:
        return sequences
    if mask is MaskRule.ALL:
        return [[Chunk(chunk.role, chunk.text, True) for chunk in chunks] for chunks in sequences[-1:]]
    return [_last_turn(chunks) for chunks in sequences[-1:]]


def _last_turn(chunks: list[Chunk]) -> list[Chunk]:
    """Train only what follows the last user turn that is answered."""
    answer = max((i for i, chunk in enumerate(chunks) if chunk.trained), default=0)
    asked = max((i for i, chunk in enumerate(chunks[:answer]) if chunk.role == "user"), default=-1)
    return [Chunk(chunk.role, chunk.text, chunk.trained and i > asked) for i, chunk in enumerate(chunks)]


def _sequences(conversation: Conversation, template: ChatTemplate) -> Iterator[list[Chunk]]:
    messages = conversation.messages
    if not any(message.get("reasoning_content") for message in messages):
        yield _Renderer(conversation, template, messages, thinking=False).all_turns()
        return
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for user, end in pairwise([*users, len(messages)]):
        if user + 1 < end:
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
        # As in NVIDIA's step, it is not checked here that the text begins with this prefix.
        begin = len(self._prefix(user, prompted=True))
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
            trained = message["role"] == "assistant" and place not in self.conversation.untrained
            chunks.append(Chunk(message["role"], self.text[begin:end], trained))
            begin = end
        return chunks

    def _end_of(self, place: int) -> int:
        """Return where a message ends in the text. Raises BadRecord if its prefix is not in the text."""
        if place == len(self.messages) - 1:
            return len(self.text)
        answered = self._role(place + 1) == "assistant"
        prefix = self._prefix(place, prompted=answered and self._role(place) in ("user", "tool"))
        if self.text.startswith(prefix):
            return len(prefix)
        # Some generation prompts end with white space that the answered turn has not.
        if (prefix := prefix.rstrip()) and self.text.startswith(prefix):
            return len(prefix)
        raise BadRecord(
            BadReason.TEMPLATE_MISMATCH,
            f"The chat template renders message {place + 1} otherwise when later messages follow.",
        )

    def _prefix(self, place: int, *, prompted: bool) -> str:
        """Render up to a message, and the generation prompt of the answer that follows it."""
        answer = self.messages[place + 1] if place + 1 < len(self.messages) else {}
        if (
            self.thinking
            and self._role(place) != "assistant"
            and answer.get("role") == "assistant"
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
