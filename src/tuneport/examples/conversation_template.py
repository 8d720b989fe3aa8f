"""Choose the chat template of a fine-tuning and the token that ends an answer.

Makes a `Chat` from a tokenizer and the user's options. Afterwards the tokenizer has the template, the tokens it needs
(as separate tokens, so that a later transfer matches them by string), and the end-of-turn token as its end token.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tuneport.errors import DataError, Fault, RenderingError, UsageError, named
from tuneport.errors import named as option
from tuneport.examples.rendering import render
from tuneport.files.json_text import read_json
from tuneport.files.opening import check_file, read_text

_HEADER = re.compile(r"\A\{#-? *tuneport: *(\{.*?\}) *-?#\}\n?")
_QUESTION, _ANSWER = "tuneport-question", "tuneport-answer"


@dataclass(frozen=True)
class Chat:
    """How examples become text: where the template came from, the token that ends an answer, tokens that are new.

    ``tokens`` are the special ones that the template writes, where it is used, and the end token; not a text's beginning.
    """

    template: str | None
    end_token: str | None
    end_id: int | None
    new_tokens: tuple[str, ...] = ()
    sets_end: bool = False
    tokens: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"template": self.template, "end_token": self.end_token, "new_tokens": list(self.new_tokens)}


def template_names() -> list[str]:
    """Names of the templates that come with tuneport."""
    folder = resources.files("tuneport.examples") / "templates"
    return sorted(entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja"))


def shipped_template(name: str) -> str:
    """The text of a template that comes with tuneport, its first line too, which says what tokens it needs."""
    return (resources.files("tuneport.examples") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def spoken_by(tokenizer: Any, text: str) -> str:
    """A template that comes along, as `tune` gives it to a model with this tokenizer; any other text as it is."""
    header = _HEADER.match(text)
    if header is None or text not in map(shipped_template, template_names()):
        return text
    return _beginning_as(tokenizer, text[header.end() :])


def _beginning_as(tokenizer: Any, text: str) -> str:
    """At inference a rendered conversation gets no token more, so the template itself must begin as the tokenizer does."""
    if tokenizer.bos_token_id is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return "{{- bos_token -}}\n" + text
    return text


def prepare_chat(tokenizer: Any, chosen: str | None, end_token: str | None, *, needed: bool) -> Chat:
    """Give ``tokenizer`` the template that is chosen (or leave its own), and find how answers end. ``chosen`` is the
    name of a template of tuneport, a file, or the template itself.

    ``needed``: the data holds messages. Raises `DataError` if there is no template for them, or one that cannot be
    rendered; `UsageError` if the choice names none, or no token ends an answer.
    """
    template: str | None = None
    tokens: list[str] = []
    named_end: str | None = None
    before = len(tokenizer)
    if chosen is not None:
        template, tokens, named_end = _chosen_template(tokenizer, chosen)
    elif needed and not tokenizer.chat_template:
        raise DataError(
            f"The data contains messages, but the model has no chat template (a base model has none). Name one: "
            f"{named('chat_template')} {', '.join(template_names())} or a FILE of your own."
        )
    known = tokenizer.get_vocab()
    wanted = [token for token in dict.fromkeys([*tokens, named_end, end_token]) if token and token not in known]
    if wanted:
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in wanted])
        assert len(tokenizer) == before + len(wanted)
    if template is not None:
        tokenizer.chat_template = template
        _check(tokenizer, name_of_choice(chosen))
    end = end_token or named_end
    if end is None and tokenizer.chat_template and (needed or template is not None):
        end = _end_of_turn(tokenizer)
        if end is None:
            raise UsageError(
                "The chat template closes an answer with no special token, so generation would never stop. "
                f"Name the token that ends an answer with {option('end_token')}."
            )
    sets_end = chosen is not None or end_token is not None
    end = end or tokenizer.eos_token
    if sets_end and end is not None:
        tokenizer.eos_token = end
    end_id = None if end is None else tokenizer.convert_tokens_to_ids(end)
    spoken = needed or template is not None
    written = [*tokens, *(_written(tokenizer) if spoken else []), *([] if end is None else [end])]
    others = (
        tokenizer.bos_token,
        tokenizer.unk_token,
    )  # the latter stands for words of the probe that it does not know
    special = tuple(token for token in dict.fromkeys(written) if token not in others)
    return Chat(_named(tokenizer, chosen), end, end_id, tuple(wanted), sets_end, special)


def _named(tokenizer: Any, chosen: str | None) -> str | None:
    """What a record calls the template: never by a path."""
    if chosen is None:
        return "the model's own" if tokenizer.chat_template else None
    return "given as text" if _is_text(chosen) else chosen if chosen in template_names() else Path(chosen).name


def _is_text(chosen: str) -> bool:
    return "{{" in chosen or "{%" in chosen


def _chosen_template(tokenizer: Any, chosen: str) -> tuple[str, list[str], str | None]:
    """The template's text, the tokens it needs, and its end-of-turn token where its first line names one."""
    path = Path(os.path.expanduser(chosen))
    shipped = chosen in template_names()
    if _is_text(chosen):
        text = chosen
    elif shipped:
        text = shipped_template(chosen)
    elif check_file(path):
        try:
            text = read_text(path)
        except UnicodeDecodeError:
            raise UsageError(Fault("chat_template", str(chosen), "is not a text file")) from None
    else:
        told = f"there is no such file, and it is not one of {', '.join(template_names())}"
        raise UsageError(Fault("chat_template", str(chosen), told))
    header = _HEADER.match(text)
    if header is None:
        return text, [], None
    try:
        named = read_json(header[1])
        tokens, end = [str(token) for token in named.get("tokens", [])], named.get("end_of_turn")
    except (ValueError, AttributeError, TypeError):
        told = "its first line must have a JSON object after `tuneport:`"
        raise UsageError(Fault("chat_template", str(chosen), told)) from None
    text = text[header.end() :]
    if not shipped:
        return text, tokens, end
    return _beginning_as(tokenizer, text), tokens, end or tokenizer.eos_token


def name_of_choice(chosen: str | None) -> str:
    """What an error calls the template."""
    if chosen is None:
        return "The chat template"
    return "The chat template that is given as text" if _is_text(chosen) else f"{named('chat_template', chosen)}"


def _check(tokenizer: Any, whose: str) -> None:
    """Raise `RenderingError` where the template does not write a question and its answer."""
    try:
        _probed(tokenizer)
    except RenderingError as error:
        raise RenderingError(f"{whose} cannot be rendered: {error}", broken=error.broken) from None


def _probed(tokenizer: Any) -> str:
    """A question and its answer as the template writes them, after a system's message where it writes none without one."""
    plain, with_system = _probes()
    try:
        return render(tokenizer, plain)
    except RenderingError as error:
        if error.broken:
            raise
        try:
            return render(tokenizer, with_system)
        except RenderingError:
            raise error from None


def _probes() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    talk = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    return talk, [{"role": "system", "content": _QUESTION}, *talk]


def _written(tokenizer: Any) -> list[str]:
    """The special tokens that the template writes around questions, answers and a system's message."""
    if not tokenizer.chat_template:
        return []
    special, found = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}, []
    for messages in _probes():
        try:
            rendered = render(tokenizer, messages)
        except RenderingError:
            continue
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        found += [str(tokenizer.convert_ids_to_tokens(id)) for id in ids if id in special]
    return found


def _end_of_turn(tokenizer: Any) -> str | None:
    """The first special token that the template writes after an answer. Raises `RenderingError` where it writes none."""
    try:
        rendered = _probed(tokenizer)
    except RenderingError as error:
        if error.broken:
            raise RenderingError(
                f"The chat template cannot be rendered: {error}. Choose another {named('chat_template')}.", broken=True
            ) from None
        raise RenderingError(
            f"The chat template does not write a question and its answer, so the token that ends an answer is unknown: "
            f"{error}. Name it with {named('end_token', 'TOKEN')}, or choose another {named('chat_template')}."
        ) from None
    _, found, tail = rendered.rpartition(_ANSWER)
    if not found:
        return None
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return next((str(tokenizer.convert_ids_to_tokens(id)) for id in ids if id in special), None)
