"""Render chat templates in Jinja's sandbox as transformers 5 does, without importing it.

The environment is that of transformers/utils/chat_template_utils.py: trim_blocks, lstrip_blocks, loop
controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now`, blocks of `{% generation %}`.
Output must be reproducible: `strftime_now` tells a given date, and there are no `random` and `lipsum`.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainer.checkpoint_safety.hugging_face import MAX_TEMPLATE_BYTES
from trainer.packing.limits import TimeLimitExceeded, limited
from trainer.quoting import printable

MAX_TEXT_CHARACTERS = 64 << 20
MAX_SECONDS = 10
"""CPU time of compiling a template, and of rendering a conversation once."""
MAX_MEMORY_BYTES = 4 << 30
"""Address space that compiling or rendering may add."""


class BadTemplate(ValueError):
    """The template itself cannot be used: it is too long, or has a syntax error."""


class RenderError(ValueError):
    """The template does not render these messages."""


class Generation(Extension):
    """`{% generation %}` marks what the assistant writes; here its content is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Unfolded(CodeGenerator):
    """Computes nothing while compiling: `{{ 'a' * 1500000000 }}` is for rendering, with its limits."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class ChatTemplate:
    """A chat template with the values that a tokenizer gives to it, such as bos_token."""

    def __init__(self, text: str, values: Mapping[str, Any] | None = None, day: date | None = None) -> None:
        """Compile the template. day: what it takes for today; by default today. Raises BadTemplate."""
        if len(text.encode(errors="surrogatepass")) > MAX_TEMPLATE_BYTES:
            raise BadTemplate(f"The chat template has more than {MAX_TEMPLATE_BYTES} bytes.")
        self.text, self.values, self.day = text, dict(values or {}), day or date.today()
        try:
            with limited(MAX_SECONDS, MAX_MEMORY_BYTES):
                self._template = _environment(self.day).from_string(text)
        except TimeLimitExceeded:
            raise BadTemplate(f"The chat template takes more than {MAX_SECONDS} s to compile.") from None
        # Jinja and Python's compiler raise many kinds: SyntaxError for 21 nested loops, MemoryError ...
        except Exception as error:
            raise BadTemplate(f"The chat template has a fault: {_brief(error)}") from None

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[Any] | None = None,
        enable_thinking: bool,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the text of a conversation. Raises RenderError if the template rejects it."""
        values = self.values | {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": enable_thinking,
            "chat_template_kwargs": {"enable_thinking": enable_thinking},
        }
        try:
            with limited(MAX_SECONDS, MAX_MEMORY_BYTES):
                return "".join(_bounded(self._template.generate(values)))
        except RenderError:
            raise
        except TimeLimitExceeded:
            raise RenderError(f"The chat template takes more than {MAX_SECONDS} s to render it.") from None
        # A template may fail in any way on what is in a record.
        except Exception as error:
            raise RenderError(f"The chat template does not render it: {_brief(error)}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.values, self.day)


def _environment(day: date) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], optimized=False
    )
    environment.code_generator_class = _Unfolded
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = datetime.combine(day, time()).strftime
    del environment.globals["lipsum"], environment.filters["random"]
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    room = MAX_TEXT_CHARACTERS
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            raise RenderError(f"The chat template renders more than {MAX_TEXT_CHARACTERS} characters.")
        yield piece


def _brief(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}"[:300])[:300].rstrip(": ")
