"""The public functions in a real notebook kernel: help, signature, results as they are shown, errors in words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel
from support import tiny_checkpoints as tiny

import tuneport


@dataclass
class Kernel:
    """A kernel that runs cells: what each prints, and what its last line is shown as."""

    client: Any
    updated: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, cell: str) -> tuple[str, dict[str, str]]:
        printed: list[str] = []
        shown: dict[str, str] = {}

        def look(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] in ("execute_result", "display_data"):
                shown.update(content["data"])
            elif message["msg_type"] == "update_display_data":
                self.updated.append(content["data"])
            elif message["msg_type"] == "error":
                printed.append(f"{content['ename']}: {content['evalue']}")

        reply = self.client.execute_interactive(cell, output_hook=look, timeout=60)
        printed += [page["data"]["text/plain"] for page in reply["content"].get("payload", ())]  # what `?` shows
        return "".join(printed), shown


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", tuneport.__all__)
def test_help_and_question_mark_show_the_signature_and_every_option(kernel: Kernel, name: str) -> None:
    told, _ = kernel(f"import tuneport\nhelp(tuneport.{name})")
    asked, _ = kernel(f"tuneport.{name}?")
    options = list(inspect.signature(getattr(tuneport, name)).parameters)
    assert options
    for text in (told, asked):
        assert all(f"{option}:" in text for option in options)
    assert "Options:" in told


def test_results_are_tables_and_wrong_calls_are_told_in_words(kernel: Kernel, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    parents = f"{str(made.base)!r}, {str(made.tuned)!r}, {str(made.target)!r}"
    for call, words in (
        (f"tuneport.plan({parents})", "plan of transfer"),
        (f"tuneport.transfer({parents}, {str(tmp_path / 'out')!r})", "done"),
        (f"tuneport.verify({str(tmp_path / 'out')!r})", "integrity only"),
        (f"tuneport.inspect({str(tmp_path / 'out')!r})", "output"),
    ):
        printed, shown = kernel(call)
        assert "Error" not in printed and words in shown["text/plain"] and "<table>" in shown["text/html"], printed
        assert len(shown["text/plain"]) < 400
    printed, _ = kernel(f"tuneport.transfer({parents}, 'x', wokers=2)")
    assert "UsageError" in printed and "Did you mean workers?" in printed


BAR = """
from tuneport.progress import Progress
with Progress("work", 10, "steps") as bar:
    bar.add(4)
    while bar._screen._handle is None:
        pass
"""


def test_progress_is_a_bar_that_needs_no_widgets_and_is_full_at_the_end(kernel: Kernel) -> None:
    printed, shown = kernel(BAR)
    assert printed == "" and "4 of 10 steps" in shown["text/plain"]
    assert "<progress value=" in shown["text/html"]
    assert kernel.updated and '<progress value="1.0000"' in kernel.updated[-1]["text/html"]
