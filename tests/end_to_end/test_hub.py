"""Models by Hub id, fetched from a Hub on the loopback interface by the command line in processes of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import tiny_checkpoints as tiny
from support.carried_models import Carried
from support.command_results import Cli, Ran
from support.loopback_hub import LoopbackHub, Request
from support.slow_reference import differing
from support.tiny_models import read_json, read_weights

from tuneport.engine.checks.drawn_matrices import ELEMENTS, MATRICES, PIECES

Transfers = Callable[[str], Carried]
PARENTS = ["--base", "org/olmo@stage1", "--tuned", "org/olmo-instruct", "--onto", "org/olmo@stage2"]
SIDECARS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"}


@pytest.fixture(scope="session")
def repositories(transfers: Transfers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """OLMo 2 as it is released: versions are revisions of one repository, and much lies beside the weights."""
    family, root = transfers("olmo2").family, tmp_path_factory.mktemp("hub")
    for name in ("base", "tuned", "target"):
        folder = root / name
        shutil.copytree(getattr(family, name), folder)
        (folder / "LICENSE").write_text("Apache License 2.0\n")
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        for other in (
            "optimizer.pt",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "original/w.pt",
        ):
            (folder / other).parent.mkdir(exist_ok=True)
            (folder / other).write_bytes(b"not to be fetched" * 100)
    return {
        "org/olmo": {"stage1": root / "base", "stage2": root / "target", "main": root / "target"},
        "org/olmo-instruct": {"main": root / "tuned"},
    }


def as_process(forked: Cli, hub: LoopbackHub, home: Path) -> Cli:
    """The command line as a process that knows only this Hub and a cache of its own."""
    return lambda *arguments, **more: forked(*arguments, environment=hub.environment(home, **more))


@pytest.fixture
def hub(repositories: dict[str, dict[str, Path]]) -> Iterator[LoopbackHub]:
    with LoopbackHub({name: dict(revisions) for name, revisions in repositories.items()}) as hub:
        yield hub


@pytest.fixture
def tuneport(forked: Cli, hub: LoopbackHub, tmp_path: Path) -> Cli:
    return as_process(forked, hub, tmp_path / "hf")


def fetched(requests: list[Request]) -> list[str]:
    """Names of files whose whole content went out, as often as it did."""
    done = [request for request in requests if request.method == "GET" and request.range is None and request.sent]
    return [request.path.rsplit("/", 1)[1] for request in done if not request.path.startswith("/api/")]


def weights_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("model*.safetensors"))


@dataclass(frozen=True)
class Story:
    """One cache from the first look to the time without a Hub: what was said, what was asked for, what was there."""

    hub: LoopbackHub
    root: Path
    said: dict[str, Ran]
    asked: dict[str, list[Request]]
    cached: dict[str, set[str]]

    def folders(self) -> list[Path]:
        """Base, tuned and target as the Hub has them."""
        revisions = self.hub.repositories
        return [
            revisions["org/olmo"]["stage1"],
            revisions["org/olmo-instruct"]["main"],
            revisions["org/olmo"]["stage2"],
        ]


@pytest.fixture(scope="session")
def story(forked: Cli, repositories: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A dry run, the run, its proof; then the server goes, and everything is asked for again."""
    root = tmp_path_factory.mktemp("story")
    with LoopbackHub(repositories) as hub:
        story, tuneport = Story(hub, root, {}, {}, {}), as_process(forked, hub, root / "hf")

        def step(name: str, *arguments: str | Path, **more: str) -> None:
            before = len(hub.requests)
            story.said[name] = tuneport(*arguments, "--json", **more)
            story.asked[name] = hub.requests[before:]
            story.cached[name] = {path.name for path in (root / "hf").rglob("snapshots/*/*")}

        step("dry run", "transfer", *PARENTS, "--out", root / "out", "--dry-run")
        assert not (root / "out").exists()
        shutil.copytree(root / "hf", root / "hf-after-dry-run", symlinks=True)
        step("run", "transfer", *PARENTS, "--out", root / "out")
        step("verify", "verify", root / "out", *PARENTS, "--full")
        hub.stop()
        step("dry run, server gone", "transfer", *PARENTS, "--out", root / "other", "--dry-run")
        step("server gone", "transfer", *PARENTS, "--out", root / "without")
        step("offline", "transfer", *PARENTS, "--out", root / "offline", HF_HUB_OFFLINE="1")
        step("again", "transfer", *PARENTS, "--out", root / "out", HF_HUB_OFFLINE="1")
    for name, said in story.said.items():
        assert said.status == 0, (name, said)
        assert said.err == "", (name, said)  # progress is for terminals
    return story


def test_a_transfer_between_hub_ids_is_that_between_folders(story: Story, transfers: Transfers) -> None:
    whole, out = transfers("olmo2"), story.root / "out"
    assert differing(read_weights(out), read_weights(whole.out)) == []
    for name in SIDECARS - {"LICENSE"}:
        assert (out / name).read_bytes() == (whole.out / name).read_bytes()
    assert story.said["verify"].json()["kind"] == "full"


def test_the_commit_of_a_revision_is_recorded_and_no_path(story: Story) -> None:
    out, commit = story.root / "out", story.hub.commit
    inputs = {entry["role"]: entry for entry in read_json(out / "tuneport.json")["inputs"]}
    assert inputs["base"]["name"] == inputs["target"]["name"] == "org/olmo"
    assert inputs["base"]["revision"] == commit("org/olmo", "stage1")
    assert inputs["target"]["revision"] == commit("org/olmo", "stage2")
    assert inputs["tuned"]["revision"] == commit("org/olmo-instruct", "main")
    card = (out / "README.md").read_text()
    assert "org/olmo" in card.split("---")[1] and "base_model" in card.split("---")[1]
    assert str(story.root) not in card + (out / "tuneport.json").read_text()


def test_a_dry_run_sees_the_weights_from_afar(story: Story) -> None:
    files = [path for folder in story.folders() for path in weights_of(folder)]
    assert story.said["dry run"].json()["bytes"]["fetch"] == sum(path.stat().st_size for path in files)
    asked = story.asked["dry run"]
    assert not any(name.endswith(".safetensors") for name in fetched(asked) + sorted(story.cached["dry run"]))
    ranges = [request for request in asked if request.path.startswith("/cdn/")]
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files)
    sampled = 3 * MATRICES * PIECES * ELEMENTS * 4
    assert ranges and all(request.range for request in ranges)
    assert headers < sum(request.sent for request in ranges) <= headers + sampled
    seen = story.said["dry run"].json()["roles"]["samples"]["tuned"]
    assert seen == story.said["dry run, server gone"].json()["roles"]["samples"]["tuned"], (
        "read from the cache, the same"
    )
    assert seen["base_target"] > 0.5 and story.said["dry run"].json()["warnings"] == []
    assert story.said["dry run, server gone"].json()["bytes"]["fetch"] == 0


def test_only_weights_that_count_and_sidecars_are_fetched_and_each_once(story: Story) -> None:
    contents: dict[str, set[bytes]] = {}
    for folder in story.folders():
        for path in folder.iterdir():
            if path.name in SIDECARS or path.name.startswith("model"):
                contents.setdefault(path.name, set()).add(path.read_bytes())
    whole = fetched(story.asked["dry run"]) + fetched(story.asked["run"])
    assert set(whole) == set(contents)
    weights = [name for name in whole if name.endswith(".safetensors")]
    assert sorted(weights) == sorted(path.name for folder in story.folders() for path in weights_of(folder))
    assert all(len(contents[name]) <= whole.count(name) <= len(story.folders()) for name in whole)
    assert len(story.folders()) == 3 and "model.safetensors" in contents and "tokenizer.json" in contents


def test_what_is_in_the_cache_is_not_fetched_again(story: Story) -> None:
    assert fetched(story.asked["verify"]) == []
    assert story.cached["offline"] == story.cached["run"]


@pytest.mark.parametrize("way", ["offline", "without"])
def test_without_the_hub_the_cache_is_enough(way: str, story: Story) -> None:
    assert differing(read_weights(story.root / way), read_weights(story.root / "out")) == []
    inputs = [read_json(story.root / name / "tuneport.json")["inputs"] for name in ("out", way)]
    assert inputs[0] == inputs[1]
    assert story.said["again"].json()["already_done"]


@pytest.mark.parametrize("way", ["nothing cached", "headers seen"])
@pytest.mark.parametrize("offline", [True, False])
def test_what_the_cache_lacks_is_told_in_one_line(
    way: str, offline: bool, forked: Cli, story: Story, tmp_path: Path
) -> None:
    if way == "headers seen":
        shutil.copytree(story.root / "hf-after-dry-run", tmp_path / "hf", symlinks=True)
    more = {"HF_HUB_OFFLINE": "1"} if offline else {}
    said = as_process(forked, story.hub, tmp_path / "hf")("transfer", *PARENTS, "--out", tmp_path / "out", **more)
    told = one_error(said, tmp_path / "out")
    assert "base org/olmo@stage1: " in told and told.count("base org/olmo") <= 2
    assert ("HF_HUB_OFFLINE" if offline else "cannot be reached") in told and ".," not in told


def test_a_server_that_knows_no_ranges_is_read_no_further_than_needed(
    hub: LoopbackHub, tuneport: Cli, tmp_path: Path
) -> None:
    hub.ranges = False
    said = tuneport("transfer", *PARENTS, "--out", tmp_path / "out", "--dry-run", "--json")
    assert said.status == 0, said.err
    assert said.json()["counts"] == {"transferred": len(read_weights(hub.repositories["org/olmo"]["main"]))}


def one_error(said: Ran, out: Path) -> str:
    assert said.status == 1 and said.out == "", said
    assert said.err.startswith("tuneport: ") and said.err.count("tuneport: ") == 1 and "Traceback" not in said.err
    assert not out.exists() and not out.with_name(out.name + ".partial").exists()
    return said.err


REFUSALS: dict[str, tuple[tuple[str, int, str | None], list[str]]] = {
    "gated": (("file", 403, "GatedRepo"), ["base org/olmo is gated", "licence", "{url}/org/olmo", "HF_TOKEN"]),
    "gated without a token": (("file", 401, "GatedRepo"), ["base org/olmo is gated", "{url}/org/olmo", "HF_TOKEN"]),
    "unauthorised": (("everywhere", 401, None), ["base org/olmo", "HF_TOKEN", "{url}/org/olmo"]),
    "forbidden": (("everywhere", 403, None), ["base org/olmo", "403", "HF_TOKEN"]),
    "not found": (("everywhere", 404, "RepoNotFound"), ["base org/olmo", "no such model", "Correct the id"]),
    "out of order": (("listing", 500, None), ["base org/olmo", "500", "Try again later"]),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    kind: str, hub: LoopbackHub, tuneport: Cli, tmp_path: Path
) -> None:
    refusal, words = REFUSALS[kind]
    hub.refusals["org/olmo"] = refusal
    told = one_error(tuneport("transfer", *PARENTS, "--out", tmp_path / "out"), tmp_path / "out")
    for word in words:
        assert word.format(url=hub.url) in told


def test_an_unknown_revision_and_an_unknown_id_are_named(hub: LoopbackHub, tuneport: Cli, tmp_path: Path) -> None:
    parents = [word.replace("@stage1", "@stage9") for word in PARENTS]
    told = one_error(tuneport("transfer", *parents, "--out", tmp_path / "out"), tmp_path / "out")
    assert "base org/olmo has no revision 'stage9'" in told
    parents = [word.replace("org/olmo-instruct", "org/olmo-instrct") for word in PARENTS]
    told = one_error(tuneport("transfer", *parents, "--out", tmp_path / "out"), tmp_path / "out")
    assert "tuned org/olmo-instrct" in told and "Correct the id" in told


def test_a_token_opens_what_is_private_and_is_written_nowhere(hub: LoopbackHub, tuneport: Cli, tmp_path: Path) -> None:
    hub.token = "hf_" + "x" * 34
    told = one_error(tuneport("transfer", *PARENTS, "--out", tmp_path / "out"), tmp_path / "out")
    assert "HF_TOKEN" in told
    said = tuneport("transfer", *PARENTS, "--out", tmp_path / "out", HF_TOKEN=hub.token)
    assert said.status == 0, said.err
    for path in (tmp_path / "out").iterdir():
        assert hub.token.encode() not in path.read_bytes()
    stored = [request.authorization for request in hub.requests if request.path.startswith("/cdn/")]
    assert stored and set(stored) == {None}  # the store of large files is another host


def test_inspect_tells_a_model_from_its_headers(hub: LoopbackHub, tuneport: Cli) -> None:
    said = tuneport("inspect", "org/olmo@stage2", "--json")
    assert said.status == 0, said.err
    described: dict[str, Any] = said.json()
    assert described["name"] == "org/olmo" and described["revision"] == hub.commit("org/olmo", "stage2")
    stored = read_weights(hub.repositories["org/olmo"]["stage2"])
    assert described["parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert described["dtypes"] == {"F32": len(stored)}
    assert not any(name.endswith(".safetensors") for name in fetched(hub.requests))


def test_a_header_that_lies_is_refused_before_the_weights_are_fetched(
    hub: LoopbackHub, tuneport: Cli, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(hub.repositories["org/olmo-instruct"]["main"], broken)
    path = weights_of(broken)[0]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name]["data_offsets"][1] += 2
    text = json.dumps(header).encode().ljust(length)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    hub.repositories["org/olmo-instruct"]["main"] = broken
    told = one_error(tuneport("transfer", *PARENTS, "--out", tmp_path / "out"), tmp_path / "out")
    assert path.name in told and "org/olmo-instruct" in told
    assert not any(name.endswith(".safetensors") for name in fetched(hub.requests))


def test_an_adapter_on_the_hub_is_fetched_with_its_config_and_nothing_else(
    hub: LoopbackHub, tuneport: Cli, tmp_path: Path
) -> None:
    base, target = hub.repositories["org/olmo"]["stage1"], hub.repositories["org/olmo"]["stage2"]
    adapter = tiny.write_lora(tmp_path / "lora", read_weights(base), rank=2, base_model_name_or_path="org/olmo")
    for other in ("README.md", "optimizer.pt", "adapter_model.bin", "training_args.bin"):
        (adapter / other).write_bytes(b"not to be fetched" * 100)
    hub.repositories["org/lora"] = {"main": adapter}
    parents = ["--base", base, "--tuned", "org/lora", "--onto", target]
    dry = tuneport("transfer", *parents, "--out", tmp_path / "out", "--dry-run", "--json")
    assert dry.status == 0, dry.err
    size = (adapter / "adapter_model.safetensors").stat().st_size
    assert dry.json()["bytes"]["fetch"] == size and fetched(hub.requests) == ["adapter_config.json"]
    done = tuneport("transfer", *parents, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert sorted(fetched(hub.requests)) == ["adapter_config.json", "adapter_model.safetensors"]
    manifest = read_json(tmp_path / "out" / "tuneport.json")
    tuned = next(entry for entry in manifest["inputs"] if entry["role"] == "tuned")
    assert tuned["name"] == "org/lora" and tuned["revision"] == hub.commit("org/lora", "main")
    assert tuned["adapter"] == "LoRA, r=2, alpha=8"
    assert '- "org/lora"' in (tmp_path / "out" / "README.md").read_text()
    local = tuneport("transfer", "--base", base, "--tuned", adapter, "--onto", target, "--out", tmp_path / "local")
    assert local.status == 0, local.err
    assert not differing(read_weights(tmp_path / "out"), read_weights(tmp_path / "local"))
    hub.stop()
    assert tuneport("transfer", *parents, "--out", tmp_path / "offline", HF_HUB_OFFLINE="1").status == 0
    proof = tuneport("verify", tmp_path / "out", *parents, "--full", HF_HUB_OFFLINE="1")
    assert proof.status == 0, proof.err


def test_what_a_multimodal_model_has_beside_its_weights_is_fetched(forked: Cli, tmp_path: Path) -> None:
    """Processor files and code of the target, and sentence-transformers' folders, with the weights and nothing more."""
    inner = {name: value for name, value in tiny.config().items() if name != "architectures"}
    settings = tiny.config(
        model_type="seeing",
        architectures=["Seeing"],
        auto_map={"AutoModel": "modeling_seeing.Seeing"},
        llm_config=inner,
    )
    eyes = tiny.moved({"vision_model.patch.weight": next(iter(tiny.llama(5).values()))}, 6)
    target = {f"language_model.{name}": value for name, value in tiny.moved(tiny.llama(1), 3).items()} | eyes
    processors = ("preprocessor_config", "processor_config", "video_preprocessor_config")
    beside = {f"{name}__json": json.dumps({"size": place}) for place, name in enumerate(processors)}
    code = {"modeling_seeing__py": "class Seeing: ...\n"}
    tiny.write_model(tmp_path / "base", tiny.llama(1))
    tuned = tiny.write_model(tmp_path / "tuned", tiny.moved(tiny.llama(1), 2))
    onto = tiny.write_model(tmp_path / "target", target, settings=settings, **beside, **code)
    (tuned / "1_Pooling").mkdir()
    (tuned / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (p, k) in enumerate(kinds.items())
    ]  # fmt: skip  (one line)
    (tuned / "modules.json").write_text(json.dumps(modules))
    (onto / "figures.py.png").write_bytes(b"not to be fetched" * 100)
    roles = {"org/" + role: {"main": tmp_path / role} for role in ("base", "tuned", "target")}
    with LoopbackHub(roles) as hub:
        tuneport = as_process(forked, hub, tmp_path / "hf")
        parents = ["--base", "org/base", "--tuned", "org/tuned", "--onto", "org/target"]
        ran = tuneport("transfer", *parents, "--out", tmp_path / "out")
        assert ran.status == 0 and ran.err == "", ran.err
        names = fetched(hub.requests)
    out = tmp_path / "out"
    assert {f"{name}.json" for name in processors} | {"modeling_seeing.py", "modules.json"} <= set(names)
    assert not any(name.endswith(".png") for name in names) and names.count("model.safetensors") == 3
    for name in (*(f"{each}.json" for each in processors), "modeling_seeing.py"):
        assert (out / name).read_bytes() == (onto / name).read_bytes()
    assert read_json(out / "1_Pooling" / "config.json") == {"pooling_mode_mean_tokens": True}
    paths = [["--base", tmp_path / "base"], ["--tuned", tuned], ["--onto", onto]]
    local = as_process(forked, hub, tmp_path / "hf")(
        "transfer", *(p for pair in paths for p in pair), "--out", tmp_path / "local"
    )
    assert local.status == 0 and not differing(read_weights(out), read_weights(tmp_path / "local"))
