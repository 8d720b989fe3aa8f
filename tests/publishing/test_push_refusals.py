"""What prevents a push, and what stops one: each has a message, before the work starts where possible."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.push_shop import Shop
from support.pushing_hub import account

from tuneport.engine.run_options import parse_repository


def test_scores_need_a_push(shop: Shop) -> None:
    assert shop.transfer("--scores", "scores.json").status == 2


@pytest.mark.parametrize(
    "name",
    ["carried", "a/b/c", "org/na me", "org/", "/abs", "./here", "org/x--y", "org/..", "org/x.git", "org/x@v2", "ö/x"],
)
def test_a_bad_name_is_told_before_anything_is_asked_or_done(name: str) -> None:
    with pytest.raises(ValueError, match="ORG/NAME"):
        parse_repository(name)


def test_a_bad_name_is_wrong_usage_also_in_a_dry_run(cli: Cli, made: tiny.Trio, tmp_path: Path) -> None:
    for more in ([], ["--dry-run"]):
        done = cli(*made.flags(tmp_path / "out", "--push-to", "no-owner", *more))
        assert done.status == 2 and "ORG/NAME" in done.err and not (tmp_path / "out").exists()
    done = cli(*made.flags(tmp_path / "out", "--push-overwrite"))
    assert done.status == 2 and "--push-to" in done.err


def test_of_several_processes_only_the_first_one_pushes(
    cli: Cli, made: tiny.Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = made.flags(tmp_path / "out", "--push-to", "me/carried")
    done = cli(*flags)
    assert done.status == 1 and "offline mode is on" in done.err and not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "1")
    done = cli(*flags, "--json")
    assert done.status == 0 and "published" not in done.json()


@given(st.text("aZ9._-/@ é", max_size=14) | st.from_regex(r"[a.-]{0,3}/[a.-]{0,4}(\.git)?", fullmatch=True))
def test_a_name_is_taken_just_where_the_hubs_own_client_takes_it(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        parse_repository(name)
        taken = True
    except ValueError:
        taken = False
    try:
        validate_repo_id(name)
        taken_there = name.count("/") == 1
    except HFValidationError:
        taken_there = False
    assert taken == taken_there


def test_what_stands_against_a_push_is_told_before_the_work(shop: Shop) -> None:
    shop.hub.accounts |= {
        "hf_" + "r" * 34: account("me", "org", role="read"),
        "hf_" + "s" * 34: account("stranger", "elsewhere"),
    }
    cases = (
        ({"HF_TOKEN": ""}, "there is no token"),
        ({"HF_TOKEN": "hf_" + "z" * 34}, "does not accept the token"),
        ({"HF_TOKEN": "hf_" + "r" * 34}, "the token has read access only"),
        ({"HF_TOKEN": "hf_" + "s" * 34}, "Push to one of: stranger/carried, elsewhere/carried"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is on"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    )
    for environment, words in cases:
        told = shop.refused("--push-to", "org/carried", **environment)
        assert words in told and "org/carried" in told, told
        assert not shop.out.exists()
        assert environment.get("HF_TOKEN", "") not in told or not environment.get("HF_TOKEN")


def test_a_push_that_fails_leaves_the_finished_folder_and_says_so(shop: Shop) -> None:
    shop.hub.make("org/carried")
    refuse = {"PUT": (403, b"{}")}
    shop.hub.before = lambda method, path: refuse.get(method)
    told = shop.refused("--push-to", "org/carried")
    assert (
        "has no write access there (403)" in told
        and f"{shop.out} is finished; run the same command again to publish it" in told
    )
    refuse.clear()
    refuse["POST"] = (413, b'{"error": "too large"}')
    assert "the Hub answered 413" in shop.refused("--push-to", "org/carried")
    refuse.clear()
    assert shop.transfer("--push-to", "org/carried").status == 0


def test_somebody_elses_push_in_the_same_moment_is_not_overwritten(shop: Shop) -> None:
    shop.hub.make("org/carried")

    def meanwhile(method: str, path: str) -> None:
        if path.endswith("/preupload/main"):
            shop.hub.before = lambda method, path: None
            shop.hub.make("org/carried", {"model.safetensors": b"theirs"})

    shop.hub.before = meanwhile
    done = shop.transfer("--push-to", "org/carried")
    assert done.status == 1 and "someone else changed the repository meanwhile" in done.err
    assert (shop.hub.main("org/carried") / "model.safetensors").read_bytes() == b"theirs"


def test_a_damaged_output_is_not_published(shop: Shop) -> None:
    assert shop.transfer().status == 0
    path = shop.out / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    told = shop.refused("--push-to", "org/carried")
    assert "has the digest" in told and not shop.hub.repositories
    content[-1] ^= 1
    path.write_bytes(content)
    (shop.out / "notes.txt").write_text("not to be published")
    assert "notes.txt is in the folder, but not in the manifest" in shop.refused("--push-to", "org/carried")
