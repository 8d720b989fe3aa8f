"""Tokens that a template writes as text are found in its source, and what it only looks at is not."""

from __future__ import annotations

import time

import pytest

from tuneport.sidecars.template_tokens import tokens_written

TOKENS = ["[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<think>"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}", ["[/INST]", "[INST]"]),
        ("{{ bos_token + '[INST] ' + m.content + ' [/INST]' + eos_token }}", ["[/INST]", "[INST]"]),
        ('{{- "[INST]" ~ x -}}', ["[INST]"]),
        ("{%- set text = '[INST]' + text -%}{{ text }}", ["[INST]"]),
        ("{{ ('[INST]' if loop.first else '<think>') + m['content'] }}", ["<think>", "[INST]"]),
        ("{{ render(m, begin='[INST]') }}", ["[INST]"]),
        ("[{{ 'IN' }}ST]", ["[INST]"]),
        ("{{ '[IN' + 'ST]' }}", ["[INST]"]),
        ("{{- '[IN' -}}   ST]", ["[INST]"]),
        ("{{ '\\u005bINST]' }}", ["[INST]"]),
        ("{% raw %}[INST]{{ '[/INST]' }}{% endraw %}", ["[/INST]", "[INST]"]),
        ("{{ '<|' + m['role'] + '|>' }}", ["<|assistant|>", "<|user|>"]),
        ("<|{{ m.role }}|>", ["<|assistant|>", "<|user|>"]),
        ("{{ 'a' }}{{ \"<think>\" }}", ["<think>"]),
        # only looked at, or commented out
        ("{# [INST] #}{{ m.content }}", []),
        ("{% if '[INST]' in m.content %}x{% elif m.role == '<|user|>' %}y{% endif %}", []),
        ("{{ m.content.split('</think>')[-1].startswith('<think>') }}", []),
        ("{{ m['<think>'] }}{{ raise_exception('no [INST] here') }}", []),
        ("{{ 'x' if '[INST]' in m.content else 'y' }}{{ 'x' if m.role != '<think>' }}", []),
        ("[INST{{ x }}]", []),
        ("{{ '<|' + 'us' }} er|>", []),
    ],
)
def test_what_a_template_writes_is_seen(source: str, expected: list[str]) -> None:
    assert sorted(tokens_written(source, TOKENS)) == expected


def test_a_role_alone_is_no_token_that_the_template_writes() -> None:
    assert tokens_written("{{ '<|' + m['role'] + '|>' }}", ["user", "us"]) == []
    assert tokens_written("the user {{ m['role'] }}", ["user"]) == ["user"]


def test_a_part_of_a_longer_token_is_not_written_by_itself() -> None:
    assert tokens_written("<|im_start|>", ["im_start"], ["<|im_start|>"]) == []
    assert tokens_written("<|im_start|> im_start", ["im_start"], ["<|im_start|>"]) == ["im_start"]


@pytest.mark.parametrize(
    "source",
    ["{{ a }}", "{{" + "(" * 50, "{%", "{{ '", "{#", "{% raw %}", "{{- x -}} ", "{{ 'a' if x else ", "{{ {'a':"],
)
def test_a_long_template_of_any_kind_is_read_in_linear_time(source: str) -> None:
    long = source * (60_000 // len(source))
    begun = time.process_time()
    tokens_written(long, TOKENS)
    assert time.process_time() - begun < 2
