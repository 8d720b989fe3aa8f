"""Chat templates are programs of strangers: whatever they do ends in words, soon, with the lines that they refuse."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from support.tiny_tuning import SPECIAL
from transformers import PreTrainedTokenizerFast
from transformers import tokenization_utils_base as utils_base

from tuneport.errors import RenderingError
from tuneport.examples import rendering
from tuneport.examples.rendering import Unwritten, render

TALK = [{"role": "user", "content": "the fox"}]


def speaking(template: str) -> Any:
    import tokenizers

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), eos_token=SPECIAL[1], chat_template=template
    )


@pytest.mark.parametrize(
    ("template", "says", "broken"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported", False),
        ("{{ raise_exception('a\nb \x1b[31mred.') }}", r"a b \x1b[31mred", False),
        ("{{ messages[0].tool_calls[0].name }}", "'dict object' has no attribute 'tool_calls'", False),
        ("{{ messages[7].content }}", "list object has no element 7", False),
        ("{{ '' }}", "it produces no text", False),
        ("{{ 1 / 0 }}", "division by zero", False),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth exceeded", False),
        ("{% include 'more' %}", "no loader for this environment specified", False),
        ("\n{{ messages | no_such_filter }}", "line 2 of the template: No filter named 'no_such_filter'", True),
        ("{% for m in messages %}{{ m.content }", "line 1 of the template: unexpected '}'", True),
        ("{{ 'x' * 10**9 }}", "it needs more than 512 MiB of memory for one conversation", True),
        ("{{ 'x' * 20000000 }}", "it produces 20,000,000 characters for one conversation", True),
    ],
)
def test_what_a_template_refuses_is_told_in_its_own_words(template: str, says: str, broken: bool) -> None:
    with pytest.raises(RenderingError) as caught:
        render(speaking(template), TALK)
    assert (str(caught.value), caught.value.broken) == (says, broken)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
# Two lists that hold themselves twice, 60 deep: they are compared in code that looks at no signal.
LISTS = (
    "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}"
    "{% endfor %}{{ n.a == n.b }}"
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("template", [LOOPS, LISTS, "{{ 9 ** (9 ** 9) }}", "{{ messages | tojson | length }}" + LISTS])
def test_a_template_without_an_end_is_stopped_wherever_it_computes(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    with pytest.raises(RenderingError, match=r"^it does not finish within 0\.2 seconds$") as caught:
        render(speaking(template), TALK)
    assert caught.value.broken
    monkeypatch.undo()
    assert render(speaking("{{ messages[0].content }}"), TALK, ask=True) == "the fox"


def test_all_lines_are_told_by_file_and_reason_and_many_are_counted() -> None:
    unwritten = Unwritten("The chat template", "choose another")
    unwritten.check()
    for number in range(1, 31):
        unwritten.note("a.jsonl", f"line {number}", RenderingError("no system"))
    for number in (2, 2, 5):  # both answers of a pair are refused
        unwritten.note("b.jsonl", f"line {number}", RenderingError("no tools"))
    shown = ", ".join(f"line {number}" for number in range(1, 21))
    with pytest.raises(RenderingError) as caught:
        unwritten.check()
    assert str(caught.value) == (
        "The chat template fails on 32 example(s):\n"
        f"  - a.jsonl: {shown} and 10 more: no system\n"
        "  - b.jsonl: line 2, line 5: no tools\n"
        "Change these examples, or choose another."
    )


def test_of_a_template_that_writes_nothing_at_all_the_first_line_is_enough() -> None:
    unwritten = Unwritten("The chat template", "choose another")
    with pytest.raises(
        RenderingError, match=r"^The chat template cannot be rendered: torn \(a\.jsonl: line 1\)\. Choose another\.$"
    ):
        unwritten.note("a.jsonl", "line 1", RenderingError("torn", broken=True))


def test_what_a_template_marks_as_answers_comes_back_from_the_child_as_transformers_gives_it() -> None:
    marking = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}"
    with rendering.rendered_in_a_child():
        inside = utils_base.render_jinja_template([TALK], chat_template=marking, return_assistant_tokens_mask=True)
    outside = utils_base.render_jinja_template([TALK], chat_template=marking, return_assistant_tokens_mask=True)
    assert inside == (["the fox!"], [[[0, 7]]])
    assert outside == (["the fox!"], [[(0, 7)]])


def test_a_template_is_stopped_in_another_thread_and_after_a_fork_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    said: list[str] = []

    def refused() -> None:
        try:
            render(speaking(LISTS), TALK)
        except RenderingError as error:
            said.append(str(error))

    thread = threading.Thread(target=refused)
    thread.start()
    thread.join()
    assert said == ["it does not finish within 0.2 seconds"]
    assert render(speaking("{{ messages[0].content }}"), TALK) == "the fox"
    child = os.fork()
    if child == 0:
        same = render(speaking("{{ messages[0].content }}"), TALK) == "the fox"
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert render(speaking("{{ messages[0].content }}"), TALK) == "the fox"
