"""The forms of training data, which recipes use them, and what is wrong with a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneport.files.printable import quoted

Row = dict[str, Any]
Numbered = list[tuple[int, Row]]
Faults = list[tuple[int, str]]

# The fields of each form, and which recipes train on it.
FORMS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
    "asked-prompt": ("prompt",),
    "asked-messages": ("messages",),
}
FORMS_OF = {
    "sft": ("messages", "prompt-completion", "text"),
    "dpo": ("preference",),
    "grpo": ("prompt",),
    "distil": ("asked-prompt", "asked-messages"),
}


def form_of(rows: Numbered, recipe: str) -> tuple[str | None, Faults]:
    """The one form of all rows (None: no row has the fields of one), and what is wrong, by number."""
    wanted = FORMS_OF[recipe]
    first: dict[str, int] = {}
    counts: Counter[str] = Counter()
    faults: Faults = []
    fitting: list[tuple[int, Row, str]] = []
    for number, row in rows:
        forms = [form for form in wanted if set(FORMS[form]) <= row.keys()]
        if len(forms) == 1:
            spoken = "prompt" in FORMS[forms[0]] and isinstance(row.get("prompt"), list)
            kind = f"{forms[0]} of messages" if spoken else forms[0]
            first.setdefault(kind, number)
            counts[kind] += 1
            fitting.append((number, row, forms[0]))
        elif forms:
            faults.append((number, f"fits more than one form ({', '.join(forms)}); keep the fields of only one"))
        else:
            has = ", ".join(map(quoted, sorted(row))) or "nothing"
            faults.append((number, f"has {has}; {recipe} needs {_wanted(wanted)}"))
    if not first and not any(set(FORMS[form]) <= row.keys() for form in wanted for _, row in rows):
        return None, faults
    if len(first) > 1:
        kinds = ", ".join(f"{counts[form]:,} × {form} (first: {number})" for form, number in first.items())
        faults.append((min(first.values()), f"forms are mixed: {kinds}; put each into a file of its own"))
    for number, row, form in fitting:
        faults += [(number, fault) for fault in _CHECKS[form](row)]
    return next(iter(first), wanted[0]).removesuffix(" of messages"), faults


def _wanted(forms: Sequence[str]) -> str:
    return ", or ".join(" and ".join(quoted(field) for field in FORMS[form]) for form in forms)


def _check_text(row: Row, field: str) -> list[str]:
    value = row[field]
    if not isinstance(value, str):
        return [f"{quoted(field)} is a {type(value).__name__}, not a string"]
    if not value.strip():
        return [f"{quoted(field)} is empty"]
    if _is_torn(value):
        return [f"{quoted(field)} holds half a character (a lone surrogate)"]
    return []


def _is_torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _check_messages(row: Row, field: str, *, last: str | None = None) -> list[str]:
    value = row[field]
    if not isinstance(value, list) or not value:
        return [f"{quoted(field)} must be a list of messages"]
    faults = []
    for place, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            faults.append(f"{quoted(field)}: message {place} has no role")
        elif not isinstance(message.get("content"), str):
            faults.append(f"{quoted(field)}: message {place} ({message['role']}) has no text in `content`")
        elif _is_torn(message["role"] + message["content"]):
            faults.append(f"{quoted(field)}: message {place} holds half a character (a lone surrogate)")
    if not faults and last is not None and value[-1]["role"] != last:
        faults.append(
            f"{quoted(field)} ends with the role {value[-1]['role']!r}, not {last!r}: there is no answer to train on"
        )
    if not faults and last == "assistant" and not value[-1]["content"].strip():
        faults.append(f"{quoted(field)}: the last answer is empty")
    return faults


def _check_conversation(row: Row) -> list[str]:
    return _check_messages(row, "messages", last="assistant")


def _check_completion(row: Row) -> list[str]:
    return _check_answers(row, "completion")


def _check_preference(row: Row) -> list[str]:
    faults = [*_check_answers(row, "chosen"), *_check_answers(row, "rejected")]
    if not faults and row["chosen"] == row["rejected"]:
        faults.append("`chosen` and `rejected` are the same, so there is no preference to learn")
    return list(dict.fromkeys(faults))


def _check_answers(row: Row, answer: str) -> list[str]:
    """A prompt and an answer, both texts or both lists of messages."""
    if isinstance(row["prompt"], list) != isinstance(row[answer], list):
        return [f"`prompt` and {quoted(answer)} must both be strings, or both lists of messages"]
    if isinstance(row["prompt"], list):
        return [*_check_messages(row, "prompt"), *_check_messages(row, answer, last="assistant")]
    prompt = [] if row["prompt"] == "" else _check_text(row, "prompt")  # an empty prompt is one: free generation
    return [*prompt, *_check_text(row, answer)]


def _check_prompt(row: Row) -> list[str]:
    if isinstance(row["prompt"], list):
        return _check_messages(row, "prompt")
    return _check_text(row, "prompt")


def _check_question(row: Row) -> list[str]:
    """Messages that end with a question, which the teacher is to answer."""
    faults = _check_messages(row, "messages")
    if not faults and row["messages"][-1]["role"] == "assistant":
        faults.append("`messages` ends with an answer; remove the last message, the teacher answers by itself")
    return faults


_CHECKS: Mapping[str, Callable[[Row], list[str]]] = {
    "messages": _check_conversation,
    "prompt-completion": _check_completion,
    "text": lambda row: _check_text(row, "text"),
    "preference": _check_preference,
    "prompt": _check_prompt,
    "asked-prompt": _check_prompt,
    "asked-messages": _check_question,
}
