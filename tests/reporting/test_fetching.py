"""A study behind a URL has the page of its folder; what is fetched for it does not stay."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fsspec
import pytest
from support.command_results import Cli
from support.made_up_results import MadeUp

from tuneport.errors import ReportError
from tuneport.reporting import fetching
from tuneport.reporting.run import report

pytestmark = pytest.mark.models  # plotly, of the report extra, draws the page


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def behind(root: Path, name: str) -> str:
    fsspec.filesystem("memory").put(str(root), f"/reported/{name}", recursive=True)
    return f"memory://reported/{name}"


def test_a_study_behind_a_url_has_the_same_page_but_for_links_to_records(tmp_path: Path, scratch: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,)).write()
    url = behind(root, "whole")
    fsspec.filesystem("memory").pipe_file("/reported/whole/steps/tune-0001/model/model.safetensors", b"large")
    there, here = (report(place, tmp_path / "page.md", format="markdown") for place in (f"{url}/", root))
    assert there == here
    report(url, tmp_path / "there.html"), report(root, tmp_path / "here.html")
    page, wanted = ((tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("there", "here"))
    assert "steps/evaluate-0001/record.json</code>" in page and ">evaluate-0001/record.json</a>" in wanted
    assert page.count("<figure") == wanted.count("<figure") > 20
    assert str(scratch) not in page and "memory://" not in page
    assert list(scratch.iterdir()) == []


def test_a_study_without_a_name_is_called_as_its_url_ends(tmp_path: Path) -> None:
    (tmp_path / "nameless").mkdir()
    (tmp_path / "nameless" / "results.json").write_text(json.dumps({"results": []}))
    told = report(behind(tmp_path / "nameless", "nameless"), tmp_path / "page.md", format="markdown")
    assert told["summary"].startswith("The study nameless takes")


def test_a_url_that_is_a_folder_of_this_machine_is_that_folder(tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,)).write()
    assert report(f"file://{root}", format="markdown")["out"] == str(root / "report.md")


def test_what_cannot_be_fetched_is_told_in_words(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli("report", "memory://reported/study", "--format", "markdown")
    assert ran.status == 2 and "on this machine" in ran.err and "--out is missing" in ran.err
    flags = ("--format", "markdown", "--out", tmp_path / "page.md")
    ran = cli("report", "memory://reported/nowhere", *flags)
    assert ran.status == 1 and "memory://reported/nowhere contains neither" in ran.err
    ran = cli("report", "nosuch://reported", *flags)
    assert ran.status == 1 and "package of their own" in ran.err

    def away(*_: object, **__: object) -> None:
        raise TimeoutError("the network is away")

    monkeypatch.setattr(fsspec.filesystem("memory"), "find", away)
    ran = cli("report", "memory://reported/study", *flags)
    assert ran.status == 1 and "the network is away (TimeoutError)" in ran.err and "run the command again" in ran.err
    assert not (tmp_path / "page.md").exists()


def test_names_that_lead_out_of_a_step_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "results.json").write_text(json.dumps({"results": []}))
    url = behind(tmp_path / "hostile", "hostile")
    names = ["/reported/hostile/steps/../record.json", "/reported/hostile/steps/a/../../record.json"]
    monkeypatch.setattr(fsspec.filesystem("memory"), "find", lambda place: names)
    monkeypatch.setattr(
        fsspec.filesystem("memory"), "cat_file", lambda place, **_: b"{}" if "steps" in place else b'{"results": []}'
    )
    assert report(url, tmp_path / "page.md", format="markdown")["words"].endswith("0 results of 0 steps")


def test_an_object_without_an_end_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/endless/results.json", b"[" * 4000)
    monkeypatch.setattr(fetching, "MOST_RECORD_BYTES", 1000)
    with pytest.raises(ReportError, match=r"results\.json"), fetching.at_hand("memory://endless"):
        raise AssertionError("it was fetched")
