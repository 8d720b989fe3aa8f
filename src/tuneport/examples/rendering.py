"""Render conversations with a chat template; a template that fails becomes an error message.

Every template is rendered in a child process with limits. It is a program by whoever made the model: it may raise
anything (an unknown role, turns that do not alternate), never finish, or use all memory. Each of these is a
`RenderingError`. All conversations of a file that cannot be rendered are reported together, with their lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tuneport.errors import RenderingError, listing
from tuneport.files.limited_process import LimitError, ask

SECONDS = 5.0  # of computing, for one conversation; the longest take milliseconds
MEMORY = 2**29  # bytes, for one conversation
LONGEST = 2**24  # letters that a template may add to a conversation
_SAID = 300  # letters of a template's own message
_LINES = 20  # of a file that are reported for one reason

Messages = Sequence[Mapping[str, Any]]


def render(tokenizer: Any, messages: Messages, *, ask: bool = False) -> str:
    """The conversation as text, by the tokenizer's template; ``ask``: with the beginning of an answer.

    Raises `RenderingError` with what the template says.
    """
    with refusals_in_words():
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=ask,
        )
    if not text:
        raise RenderingError("it produces no text")
    return text


@contextmanager
def refusals_in_words() -> Iterator[None]:
    """Within it a template may be rendered: whatever that raises is a `RenderingError`. `SECONDS` and `MEMORY` bound it."""
    from jinja2 import TemplateSyntaxError

    try:
        with rendered_in_a_child():
            yield
    except RenderingError:
        raise
    except TemplateSyntaxError as error:
        raise RenderingError(
            f"line {error.lineno} of the template: {_plain(error.message or '')}", broken=True
        ) from None
    except Exception as error:  # a template computes what it likes: it divides by zero, or finds no such message
        raise RenderingError(_plain(str(error)) or type(error).__name__) from None


@contextmanager
def rendered_in_a_child() -> Iterator[None]:
    """Within it transformers renders every template in a child with limits, whoever asks: TRL and the harness do so too.

    transformers has no other place to bound a template, which may compute in code that looks at no signal.
    """
    from transformers import tokenization_utils_base

    asking: Any = tokenization_utils_base  # which exports the function by accident

    before = asking.render_jinja_template
    asking.render_jinja_template = _render_in_a_child
    try:
        yield
    finally:
        asking.render_jinja_template = before


def _render_in_a_child(conversations: Sequence[Messages], **given: Any) -> tuple[list[str], list[list[Any]]]:
    """As transformers' `render_jinja_template`, with limits; raises `RenderingError` where the template breaks them."""
    from jinja2 import TemplateError, TemplateSyntaxError

    request = {"conversations": [[dict(message) for message in messages] for messages in conversations], **given}
    try:
        answer = ask("tuneport.examples.rendering:renderer", request, seconds=SECONDS, memory=MEMORY)
    except LimitError as error:
        much = f"needs more than {MEMORY >> 20} MiB of memory for one conversation"
        less = f"does not finish within {SECONDS:g} seconds"
        raise RenderingError(f"it {much if error.memory else less}", broken=True) from None
    if "syntax" in answer:
        raise TemplateSyntaxError(answer["syntax"], answer["line"])
    if "template" in answer:
        raise TemplateError(answer["template"])
    if "other" in answer:
        raise RenderingError(_plain(answer["other"]))
    for text, messages in zip(answer["texts"], conversations, strict=True):
        if len(text) > LONGEST + 4 * sum(len(str(message.get("content"))) for message in messages):
            raise RenderingError(f"it produces {len(text):,} characters for one conversation", broken=True)
    return answer["texts"], answer["marked"]


def renderer() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """In the child: what renders, with everything imported that it needs."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        """The texts and what the template marks in them as answers, or what it raises."""
        try:
            rendered: Any = render_jinja_template(**request)  # declared as a text, which it is not
            texts, marked = rendered
        except TemplateSyntaxError as error:
            return {"syntax": error.message or "", "line": error.lineno}
        except TemplateError as error:
            return {"template": str(error)}
        except MemoryError:
            raise
        except Exception as error:  # as above
            return {"other": str(error) or type(error).__name__}
        return {"texts": texts, "marked": marked}

    answer({"conversations": [[{"role": "user", "content": ""}]], "chat_template": "{{ messages[0].content }}"})
    return answer


class Unwritten:
    """Conversations that a template does not write, gathered over all files and told together."""

    def __init__(self, whose: str, remedy: str) -> None:
        """Begin with none; ``whose`` names the template, ``remedy`` is what may be done about it."""
        self._whose, self._remedy = whose, remedy
        self._lines: dict[tuple[str, str], dict[str, None]] = {}  # by file and reason: places, in order

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def note(self, file: str, place: str, error: RenderingError) -> None:
        """Keep what the template says to a line of a file; of a template that writes nothing at all, tell it now."""
        if error.broken:
            remedy = self._remedy[:1].upper() + self._remedy[1:]
            raise RenderingError(f"{self._whose} cannot be rendered: {error} ({file}: {place}). {remedy}.", broken=True)
        # A line may be refused twice: both answers of a pair, an answer that is measured and generated.
        self._lines.setdefault((file, str(error)), {})[place] = None

    def check(self) -> None:
        """Raise `RenderingError` that lists every line, by file and by what the template says."""
        if self._lines:
            told = [f"{file}: {_some(list(places))}: {said}" for (file, said), places in self._lines.items()]
            raise RenderingError(
                f"{self._whose} fails on {len(self):,} example(s):{listing(told)}\n"
                f"Change these examples, or {self._remedy}."
            )


def _some(places: Sequence[str]) -> str:
    shown = ", ".join(places[:_LINES])
    return shown if len(places) <= _LINES else f"{shown} and {len(places) - _LINES:,} more"


def _plain(text: str) -> str:
    """A stranger's text as one line without control characters."""
    line = " ".join(text.split()).rstrip(".")
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    return shown if len(shown) <= _SAID else f"{shown[: _SAID - 1]}…"
