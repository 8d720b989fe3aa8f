"""A message holds every line of its lists; a terminal is shown twenty of them, and told how many there are."""

from __future__ import annotations

from pathlib import Path

import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli

from tuneport.errors import in_brief, listing


def test_a_long_list_is_whole_in_the_message_and_cut_for_a_terminal() -> None:
    message = f"These:{listing([str(n) for n in range(25)])}\nGive them.{listing(['a', 'b'])}"
    assert message.count("\n  - ") == 27
    shown = in_brief(message).split("\n")
    assert shown[:2] == ["These:", "  - 0"] and shown[20:] == [
        "  - 19",
        "  - … and 5 more (--json lists all)",
        "Give them.",
        "  - a",
        "  - b",
    ]
    assert in_brief(f"x{listing(['a'] * 20)}") == f"x{listing(['a'] * 20)}"
    assert listing(["a"] * 5, 3).endswith("\n  - … and 2 more")


def test_json_has_every_line_of_an_error(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    extra = {f"extra.{place}.scale": torch.ones(1) for place in range(30)}
    trio = tiny.trio(tmp_path, base=base, tuned={**tiny.moved(base, 2), **extra})
    ran = cli(*trio.flags(tmp_path / "out"), "--json")
    assert ran.status == 1 and ran.err.count("extra.") < 60 and "and 10 more (--json lists all)" in ran.err
    assert all(f"`{name}`" in ran.json()["error"]["message"] for name in extra)
