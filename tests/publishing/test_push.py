"""`--push-to` against a Hub on the loopback interface, by the command line in processes of their own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support import tiny_checkpoints as tiny
from support.command_results import Ran
from support.push_shop import CARDS, Shop, pushed, written

from publishing.test_tuning_card import record
from tuneport.engine.choices import Running
from tuneport.output.model_card import own_text, with_own
from tuneport.output.replacing import weights_or_sidecar
from tuneport.publishing.push import _whole


def test_a_transfer_is_pushed_when_it_is_whole_and_comes_back_byte_for_byte(shop: Shop, made: tiny.Trio) -> None:
    done = shop.transfer("--push-to", "org/carried", "--json")
    assert done.status == 0, done.err
    told = done.json()["published"]
    assert told["repo"] == "org/carried" and told["url"] == f"{shop.hub.url}/org/carried"
    assert told["commit"] == shop.hub.heads["org/carried"] and told["commit"] in told["commit_url"]
    assert told["replaced"] is None and told["unchanged"] is False and done.err == ""
    assert told["files"] == sorted(tiny.contents(shop.out)) and told["bytes"] == sum(
        path.stat().st_size for path in shop.hub.main("org/carried").iterdir() if path.name != ".gitattributes"
    )
    assert pushed(shop.hub.main("org/carried")) == written(shop.out)
    first, last = shop.hub.history["org/carried"]
    assert "tuneport transfer: target + (tuned − base)" in last["summary"] and first["summary"] == "initial commit"
    stores = [request.authorization for request in shop.hub.requests if request.path.startswith("/store/")]
    assert stores == [None]  # the store of large files is another host

    described = shop("inspect", "org/carried", "--json", HF_TOKEN="")
    assert described.status == 0, described.err
    assert described.json()["revision"] == told["commit"]
    # The published model is a tuned model like any other: carrying it back gives what carrying the folder back gives.
    back = ["--base", str(made.target), "--onto", str(made.base)]
    for tuned, out in (("org/carried", "from-hub"), (str(shop.out), "from-folder")):
        carried = shop("transfer", "--tuned", tuned, *back, "--out", shop.root / out, HF_TOKEN="")
        assert carried.status == 0, carried.err
    tiny.assert_same(tiny.read_weights(shop.root / "from-hub"), tiny.read_weights(shop.root / "from-folder"))
    snapshot = next((shop.root / "hf").rglob(f"snapshots/{told['commit']}"))
    fetched = tiny.contents(snapshot)
    assert (
        "model.safetensors" in fetched
        and {n: c for n, c in fetched.items() if n not in CARDS}.items() <= written(shop.out).items()
    )


def test_a_folder_that_is_there_already_is_published_and_twice_is_once(shop: Shop) -> None:
    assert shop.transfer().status == 0
    first = shop.transfer("--push-to", "org/carried")
    assert first.status == 0 and "already done" in first.out and f"{shop.hub.url}/org/carried: published" in first.out
    commits = list(shop.hub.history["org/carried"])
    again = shop.transfer("--push-to", "org/carried", "--json")
    assert again.json()["published"]["unchanged"] is True
    assert shop.hub.history["org/carried"] == commits and len(shop.sent()) == 1


def test_a_later_push_replaces_an_earlier_one_file_by_file(shop: Shop) -> None:
    assert shop.transfer("--push-to", "me/carried", "--shard-size", "300").status == 0
    shards = {path.name for path in shop.out.glob("model*")}
    assert len(shards) > 2
    first = shop.hub.heads["me/carried"]
    shop.hub.make("me/carried", {**_bytes(shop.out), "plot.png": b"of somebody's"})
    dry = shop.transfer("--overwrite", "--push-to", "me/carried", "--dry-run")
    assert "an earlier push of tuneport (transfer: target + (tuned − base))" in dry.out
    done = shop.transfer("--overwrite", "--push-to", "me/carried", "--json")
    assert done.status == 0, done.err
    told = done.json()["published"]
    assert set(told["removed"]) == shards and told["kept"] == ["plot.png"] and told["replaced"] not in (None, first)
    left = pushed(shop.hub.main("me/carried"))
    assert left.pop("plot.png") and left == written(shop.out)


def test_what_tuneport_did_not_push_is_replaced_only_when_asked(shop: Shop) -> None:
    shop.hub.make("me/other", {"config.json": b"{}", "model.safetensors": b"a year of work", "README.md": b"mine"})
    told = shop.refused("--push-to", "me/other")
    assert "me/other contains files that tuneport did not push" in told and "--push-overwrite" in told
    assert "model.safetensors" in told and not shop.out.exists()  # known before the work
    shop.hub.make("me/liar", {"tuneport.json": b'{"format": "something/1"}'})
    assert "did not push" in shop.refused("--push-to", "me/liar")
    done = shop.transfer("--push-to", "me/other", "--push-overwrite")
    assert done.status == 0, done.err
    assert pushed(shop.hub.main("me/other")) == written(shop.out)


def test_a_card_that_was_edited_on_the_hub_is_not_lost(shop: Shop) -> None:
    assert shop.transfer("--push-to", "me/carried").status == 0
    shop.hub.make("me/carried", {**_bytes(shop.out), "README.md": b"---\nlicense: mit\n---\nbetter words"})
    told = shop.refused("--overwrite", "--scale", "0.5", "--push-to", "me/carried")
    assert "README.md was edited at" in told and "--push-overwrite" in told


def test_the_card_on_the_hub_names_the_repository_and_holds_the_scores(shop: Shop) -> None:
    scores = shop.root / "scores.json"
    task = {"metric": "exact_match", "value": 0.75, "stderr": 0.03, "n": 200, "interval": [0.69, 0.8]}
    told = {"format": "tuneport.evaluation/1", "models": [{"model": "out", "tasks": {"gsm8k: x\n- y": task}}]}
    scores.write_text(json.dumps(told))
    done = shop.transfer("--push-to", "org/carried", "--scores", scores)
    assert done.status == 0, done.err
    place = shop.hub.main("org/carried")
    card = ModelCard.load(place / "README.md")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("gsm8k: x\n- y", "exact_match", 0.75)
    assert card.data.model_name == "carried" and 'from_pretrained("org/carried")' in card.text
    assert 'from_pretrained("this-folder")' in (shop.out / "README.md").read_text(), "the folder stays as it is"
    fetched = shop.root / "fetched"
    shutil.copytree(place, fetched, ignore=shutil.ignore_patterns(".gitattributes"))
    assert shop("verify", fetched).status == 0
    wrong = shop.transfer("--push-to", "org/carried", "--scores", shop.root / "none.json")
    assert wrong.status == 1 and "Traceback" not in wrong.err


def test_a_section_of_ones_own_is_kept_by_later_runs_and_pushes(shop: Shop) -> None:
    assert shop.transfer("--push-to", "me/carried").status == 0
    mine = "\nMade for the choir. --- <b>\n"
    for card in (shop.out / "README.md", shop.hub.main("me/carried") / "README.md"):
        card.write_bytes(with_own(card.read_bytes(), mine))
    assert shop("verify", shop.out).status == 0
    assert shop.transfer("--overwrite", "--scale", "0.5").status == 0
    assert own_text(shop.out / "README.md") == mine
    (shop.out / "README.md").write_bytes(with_own((shop.out / "README.md").read_bytes(), ""))
    done = shop.transfer("--overwrite", "--scale", "0.25", "--push-to", "me/carried")
    assert done.status == 0, done.err
    assert own_text(shop.hub.main("me/carried") / "README.md") == mine


def test_an_empty_repository_is_filled_and_keeps_its_place(shop: Shop) -> None:
    shop.hub.make("org/empty")
    dry = shop.transfer("--push-to", "org/empty", "--dry-run", "--json")
    assert dry.json()["push"] == {
        "repo": "org/empty",
        "url": f"{shop.hub.url}/org/empty",
        "holds": "a repository that is empty",
        "replaces": None,
    }
    assert shop.transfer("--push-to", "org/empty").status == 0
    assert pushed(shop.hub.main("org/empty")) == written(shop.out)


def test_a_dry_run_says_where_to_and_sends_nothing(shop: Shop) -> None:
    dry = shop.transfer("--push-to", "org/carried", "--dry-run")
    assert dry.status == 0 and f"would be pushed to {shop.hub.url}/org/carried (a new repository)" in dry.out
    assert not shop.out.exists() and not shop.hub.repositories
    assert {request.method for request in shop.hub.requests} == {"GET"}


def test_a_push_that_is_killed_goes_on_and_sends_nothing_twice(shop: Shop) -> None:
    assert shop.transfer("--shard-size", "300").status == 0
    arrived: list[str] = []
    hold = {"on": True}

    def stuck(method: str, path: str) -> tuple[int, bytes] | None:
        if method != "PUT":
            return None
        arrived.append(path)
        if len(arrived) <= 2:
            return None
        while hold["on"]:  # two arrive, the others hang until the client is dead
            time.sleep(0.01)
        return 503, b"{}"

    shop.hub.before = stuck
    flags = shop.made.flags(shop.out, "--shard-size", "300", "--push-to", "org/carried")
    command = [sys.executable, "-m", "tuneport", *flags]
    process = subprocess.Popen(command, env=shop.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: len(arrived) > 2 and len(list((shop.root / "hub" / "store").glob("*[!w]"))) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shards = sorted(path.name for path in shop.out.glob("*.safetensors"))
    assert len(shards) > 3
    assert set(tiny.contents(shop.hub.main("org/carried"))) == {".gitattributes"}  # nothing half
    stored = {f"/store/{path.name}" for path in (shop.root / "hub" / "store").iterdir()}
    hold["on"] = False
    shop.hub.before = lambda method, path: None
    before = len(shop.hub.requests)
    done = shop.transfer("--shard-size", "300", "--push-to", "org/carried")
    assert done.status == 0, done.err
    again = {r.path for r in shop.hub.requests[before:] if r.method == "PUT"}
    assert again and not again & stored
    assert pushed(shop.hub.main("org/carried")) == written(shop.out)


def test_an_apply_is_pushed_and_so_is_a_diff_vector_from_python(shop: Shop, made: tiny.Trio) -> None:
    delta = shop.root / "delta"
    assert shop("diff", "--base", made.base, "--tuned", made.tuned, "--out", delta).status == 0
    done = shop("apply", delta, "--onto", made.target, "--out", shop.out, "--push-to", "me/applied")
    assert done.status == 0, done.err
    assert pushed(shop.hub.main("me/applied")) == written(shop.out)
    code = f"import tuneport; print(tuneport.publish({str(delta)!r}, 'me/delta').commit)"
    said = subprocess.run(
        [sys.executable, "-c", code], env=shop.environment(), capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == shop.hub.heads["me/delta"]
    assert pushed(shop.hub.main("me/delta")) == written(delta)


def test_a_fine_tuning_is_pushed_with_its_records_and_nothing_else(shop: Shop, made: tiny.Trio) -> None:
    tuned = _as_a_fine_tuning(made.tuned, shop.root / "tuned")
    publish = f"import tuneport; print(tuneport.publish({str(tuned)!r}, 'me/tuned'))"

    def run() -> Ran:
        return shop.run(code=publish, environment=shop.environment())

    (tuned / "diary.txt").write_text("of a person")
    assert "diary.txt" in run().err and not shop.hub.repositories
    (tuned / "diary.txt").unlink()
    assert run().status == 0
    assert pushed(shop.hub.main("me/tuned")) == written(tuned)
    assert shop.hub.history["me/tuned"][-1]["summary"] == "tuneport tune: sft of base, 4 steps"
    assert "has these files already" in run().out


def test_the_commit_of_what_adapt_wrote_names_the_models_that_it_was_given(made: tiny.Trio, tmp_path: Path) -> None:
    tuned = _as_a_fine_tuning(made.tuned, tmp_path / "tuned")
    told = json.loads((tuned / "tune.json").read_text())
    inputs = [{"role": role, "name": f"me/{role}", "revision": "r1"} for role in ("base", "tuned", "target")]
    told["adapted"] = {"chosen": "distil", "inputs": inputs}
    (tuned / "tune.json").write_text(json.dumps(told))
    _, summary, parents = _whole(tuned, Running())
    assert summary == "tuneport adapt: distil"
    assert parents == "base: me/base r1\ntuned: me/tuned r1\ntarget: me/target r1"


def test_a_folder_that_is_not_of_tuneport_or_not_finished_is_not_published(made: tiny.Trio, tmp_path: Path) -> None:
    import tuneport
    from tuneport.errors import OutputError

    with pytest.raises(OutputError, match="not a finished output folder of tuneport"):
        tuneport.publish(made.base, "me/base")
    tuned = _as_a_fine_tuning(made.tuned, tmp_path / "tuned")
    (tuned / "tune.json").write_text("{}")
    with pytest.raises(OutputError, match="is damaged"):
        tuneport.publish(tuned, "me/tuned")


def _as_a_fine_tuning(model: Path, folder: Path) -> Path:
    """A model folder with the records of `tune` beside it (tests/test_tutorial.py pushes what `tune` really wrote)."""
    shutil.copytree(model, folder)
    told = record(format="tuneport.tune/1", model={"name": "base", "revision": None})
    told["outcome"]["steps"] = 4
    (folder / "tune.json").write_text(json.dumps(told))
    for name in ("log.jsonl", "tune-hashes.txt"):
        (folder / name).write_text("")
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("preprocessor_config.json", True),
        ("1_Pooling/config.json", True),
        ("modules.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("2_Dense/model.safetensors", False),
        ("x/preprocessor_config.json", False),
        ("modeling_x.py", False),
        ("optimizer.pt", False),
    ],
)
def test_a_fine_tunings_folder_may_hold_what_is_read_beside_weights_and_nothing_else(name: str, known: bool) -> None:
    assert weights_or_sidecar(name) is known
