"""Decide everything before training: model, tokens, template, examples, steps.

Training and the dry run share the `Prepared` result. All errors that do not need the weights are raised here, before
anything is written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import FLOAT_SPELLINGS
from tuneport.checkpoint.local_folder import check_for_loaders
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.small_files import TOKENIZER_FILES
from tuneport.errors import ABSENT, CheckpointError, DataError, Fault, RenderingError, UsageError, named, spoken
from tuneport.examples.conversation_template import Chat, name_of_choice, prepare_chat
from tuneport.examples.training_data import DataSource, Share, read_sources
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, content_digest, opened, read_bytes
from tuneport.libraries import how_to_install, missing
from tuneport.output.write import MANIFEST
from tuneport.scoring.devices import best_device, check_dtype
from tuneport.scoring.layer_counts import check_layer_counts
from tuneport.scoring.model_class import is_multimodal, read_config
from tuneport.scoring.models import need_harness
from tuneport.tuning import encode
from tuneport.tuning.curve_data import Selection, read_selection
from tuneport.tuning.distillation.answer_lessons import Lessons
from tuneport.tuning.distillation.teaching import Teaching, find_teaching
from tuneport.tuning.recipes import DistilRecipe, GrpoRecipe, Lora, Recipe, TuningRun
from tuneport.tuning.rewards import Weighted, check_rewards, parse_reward
from tuneport.tuning.save import stops_of
from tuneport.tuning.stored_dtype import TORCH_NAMES

FORMAT = "tuneport.tune/1"
SEQUENCE_LENGTH = 2048  # section 3.1, footnote 4
MANY_EPOCHS = 10  # of a number of steps: above it, rather a mistake than a choice
TEXT_PART = "text"  # what of a multimodal model is trained
_NEEDED = ("torch", "transformers", "trl", "accelerate", "datasets")


@dataclass(frozen=True)
class Prepared:
    """A fine-tuning, ready to begin. ``taught``: tokens whose rows an adapter trains; ``text_only``: other parts stay as they are.

    ``teaching``: who answers the prompts of a distillation; ``lessons``: what was answered, once it was.
    """

    start: Checkpoint
    recipe: Recipe
    lora: Lora | None
    dtype: str | None
    sources: tuple[DataSource, ...]
    tokenizer: Any
    chat: Chat
    length: int
    encoded: encode.Encoded
    kept: tuple[tuple[bool, ...], ...]
    rewards: tuple[Weighted, ...]
    steps: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    taught: tuple[str, ...]
    selection: Selection
    text_only: bool = False
    teaching: Teaching | None = None
    lessons: Lessons | None = None

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        return self.steps * self.recipe.batch_size / self.encoded.counts.examples

    @property
    def tokens(self) -> int:
        """About how many tokens the run sees; of prompts only, where answers are made."""
        return round(
            self.encoded.counts.tokens / self.encoded.counts.examples * self.recipe.examples_per_step * self.steps
        )

    def plan(self) -> dict[str, Any]:
        """What makes two runs the same: choices, and digests of whatever goes in."""
        template = self.tokenizer.chat_template if self.chat.template else None
        return {
            "format": FORMAT,
            "model": {**identity(self.start), "digest": _weights_digest(self.start)},
            "recipe": {**self.recipe.record(), "max_length": self.length},
            "lora": None if self.lora is None else {**self.lora.record(), "tokens": list(self.taught)},
            **({} if self.dtype is None else {"dtype": self.dtype}),
            **({"part": TEXT_PART} if self.text_only else {}),
            "data": [source.record() for source in self.sources],
            **({} if self.teaching is None else self.teaching.plan()),
            "chat": {
                **self.chat.record(),
                "digest": None if template is None else f"blake3:{blake3(str(template).encode()).hexdigest()}",
            },
        }


def prepare(
    model: str | os.PathLike[str],
    data: Sequence[Any],
    recipe: Recipe,
    *,
    mix: Sequence[Share] = (),
    chat_template: str | None = None,
    end_token: str | None = None,
    lora: Lora | None = None,
    dtype: str | None = None,
    running: TuningRun | None = None,
    columns: Mapping[str, str] | None = None,
) -> Prepared:
    """Read and check everything that goes in. Raises `TuneportError` of the kind that fits."""
    running = running or TuningRun()
    _need_extra(lora, running, recipe)
    dtype = _stored_dtype(dtype, lora)
    check_dtype(best_device(), recipe.precision, "precision")
    selection = read_selection(running.tasks, running.match)
    rewards = tuple(parse_reward(text) for text in recipe.rewards) if isinstance(recipe, GrpoRecipe) else ()
    start = _open(model)
    text_only = is_multimodal(read_config(start))
    sources = read_sources(data, recipe.name, mix, recipe.seed, columns)
    tokenizer = load_tokenizer(start)
    messages = any(_holds_messages(source) for source in sources)
    try:
        chat = prepare_chat(tokenizer, chat_template, end_token, needed=messages)
    except RenderingError:
        if messages:  # rather than a probe, tell the examples that it refuses
            encode.check_written(sources, tokenizer, name_of_choice(chat_template))
        raise
    if chat.end_id is None:
        raise UsageError(
            f"The tokenizer has no end token, so answers would never end. Set one with {named('end_token')}."
        )
    selection.check(tokenizer)
    taught = () if lora is None else _taught(recipe, lora, chat, tokenizer)
    left = [] if lora is None else _left(recipe, lora, chat)
    length = _sequence_length(start, recipe)
    kept: list[list[bool]] = []
    teaching = None
    if isinstance(recipe, GrpoRecipe):
        check_rewards(rewards, [(source.name, source.rows) for source in sources])
        if recipe.max_completion_length >= length:
            told = f"leaves no room for a prompt in the sequence length of {length}"
            raise UsageError(Fault("max_completion_length", recipe.max_completion_length, told))
        kept, counts = encode.prompt_lengths(sources, tokenizer, length - recipe.max_completion_length + 1)
        encoded = encode.Encoded({}, counts, encode.prompt_digests(sources))
        _check_prompts(recipe, counts.examples, chat)
    elif isinstance(recipe, DistilRecipe):
        kept, counts = encode.prompt_lengths(sources, tokenizer, length)
        teaching = find_teaching(recipe, sources, kept, start, tokenizer)
        encoded = encode.Encoded({}, counts, encode.prompt_digests(sources) | teaching.text_digests())
    elif recipe.name == "dpo":
        encoded = encode.encode_preferences(sources, tokenizer, chat, length)
    else:
        encoded = encode.encode_sft(sources, tokenizer, chat, length)
    steps = recipe.steps
    if steps is None:
        assert recipe.epochs is not None, "the recipe checks that one of the two is given"
        steps = max(1, math.ceil(recipe.epochs * encoded.counts.examples / recipe.batch_size))
    return Prepared(
        start=start,
        recipe=recipe,
        lora=lora,
        dtype=dtype,
        sources=tuple(sources),
        tokenizer=tokenizer,
        chat=chat,
        length=length,
        encoded=encoded,
        kept=tuple(tuple(fits) for fits in kept),
        rewards=rewards,
        steps=steps,
        warnings=(
            *start.warnings,
            *encoded.counts.warnings(length),
            *_many_epochs(recipe, encoded.counts.examples, steps),
            *_endless(start, chat),
            *left,
            *selection.warnings(encoded.digests),
            *(() if teaching is None else teaching.warnings),
        ),
        notes=tuple(dict.fromkeys(_notes(sources, selection))),
        taught=taught,
        selection=selection,
        text_only=text_only,
        teaching=teaching,
    )


def _many_epochs(recipe: Recipe, examples: int, steps: int) -> list[str]:
    """A warning if a number of steps means many passes over few examples; with `epochs` the user knows how many."""
    epochs = steps * recipe.batch_size / examples
    if recipe.steps is None or recipe.repeats or epochs <= MANY_EPOCHS:
        return []
    return [
        f"{steps:,} steps of {recipe.batch_size} on {examples:,} examples are {epochs:,.0f} epochs: the model sees "
        f"each example {epochs:,.0f} times and will memorize it. Use {named('epochs')} 3, or more examples."
    ]


def _notes(sources: Sequence[DataSource], selection: Selection) -> list[str]:
    """Which columns of the data are not used."""
    return [note for notes in (*(s.notes for s in sources), *(t.notes for t in selection.own)) for note in notes]


def load_tokenizer(start: Checkpoint) -> Any:
    """The start's tokenizer, as transformers reads it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(start.path, trust_remote_code=False)  # None would ask on the terminal
    except Exception as error:  # transformers' and tokenizers' own, of a dozen kinds and of none
        here = [name for name in start.sidecars.names() if name in TOKENIZER_FILES or "token" in name]
        raise CheckpointError(
            f"{start.label}: transformers cannot read its tokenizer (files: {', '.join(here) or 'none'}). Put the "
            f"tokenizer's files beside the weights. Its message: {' '.join(str(error).split())[:300]}"
        ) from None


def _open(model: str | os.PathLike[str]) -> Checkpoint:
    start = open_checkpoint(model, "model")
    check_layer_counts(start)
    if start.to_fetch:
        from tuneport.checkpoint.hub import fetch

        start = fetch(start)
    if start.adapter is not None:
        base = start.adapter.base_model or "BASE"
        raise CheckpointError(
            f"model {start.label} is an adapter without full weights, so it cannot be trained further. Apply it to "
            f"its base first: "
            f"`tuneport transfer --base {base} --tuned {start.label} --onto {base} --out DIR`; then tune DIR."
        )
    check_for_loaders(start.path)
    if not start.config:
        raise CheckpointError(f"model {start.label} has no config.json, so it cannot be trained.")
    return start


def identity(start: Checkpoint) -> dict[str, Any]:
    """How a record calls a model: its name, and the commit where it comes from the Hub."""
    return {"name": start.hub_id or start.label, "revision": start.revision}


def _weights_digest(start: Checkpoint) -> str:
    """BLAKE3 over the weight files: what the run started from, whatever it is called. Read once more by the run itself."""
    whole = blake3()
    for name in sorted(start.files):
        with opened(start.path / name) as weights:
            whole.update(f"{name}\0{content_digest(weights)}\0".encode())
    return f"files:{whole.hexdigest()}"


def _holds_messages(source: DataSource) -> bool:
    return source.form in ("messages", "asked-messages") or isinstance(source.rows[0].get("prompt"), list)


def _sequence_length(start: Checkpoint, recipe: Recipe) -> int:
    """The chosen length, if the model's context allows it; else the paper's, or the model's context if that is shorter."""
    text = start.config.get("text_config", start.config)
    context = text.get("max_position_embeddings") or text.get("n_positions")
    if recipe.max_length is None:
        return min(SEQUENCE_LENGTH, int(context)) if context else SEQUENCE_LENGTH
    if context and recipe.max_length > int(context):
        told = f"is above the context of {start.label}, which is {context} tokens (max_position_embeddings)"
        raise UsageError(Fault("max_length", recipe.max_length, told))
    return recipe.max_length


def _check_prompts(recipe: GrpoRecipe, prompts: int, chat: Chat) -> None:
    """Refuse what TRL would pass over: updates that no number of prompts fills, a reference without the new tokens' rows."""
    if prompts < recipe.batch_size:
        raise DataError(
            f"grpo: {prompts} prompts fit, but an update needs {recipe.batch_size}. Use more data, or a "
            f"{named('batch_size')} of {max(1, prompts)} or less."
        )
    if recipe.kl_coef > 0 and chat.new_tokens:
        told = f"the reference model has no rows for {', '.join(chat.new_tokens)}"
        raise UsageError(Fault("kl_coef", recipe.kl_coef, told, "Train these tokens with sft first, or give 0"))


def _taught(recipe: Recipe, lora: Lora, chat: Chat, tokenizer: Any) -> tuple[str, ...]:
    """The tokens whose rows the adapter trains. Raises `UsageError` for those that it cannot."""
    usual = "chat" if chat.sets_end and recipe.trains_rows else "new"
    choice = usual if lora.tokens is None else lora.tokens
    asked = choice if isinstance(choice, tuple) else chat.tokens if choice == "chat" else ()
    unknown = sorted(set(asked) - tokenizer.get_vocab().keys())
    if unknown:
        raise UsageError(Fault("lora", ABSENT, f"tokens: the tokenizer lacks {', '.join(unknown)}"))
    taught = tuple(dict.fromkeys([*chat.new_tokens, *asked]))
    if taught and not recipe.trains_rows:
        told = f"{recipe.name} cannot train an adapter's rows for {', '.join(taught)}"
        remedy = "Train them with sft first, train all parameters, or choose a template whose tokens the model has"
        raise UsageError(Fault("lora", ABSENT, told, remedy))
    return taught


def _left(recipe: Recipe, lora: Lora, chat: Chat) -> list[str]:
    """A warning where a template comes with a recipe that cannot train an adapter's rows for its tokens, and nothing
    else does.
    """
    if recipe.trains_rows or not chat.sets_end or not chat.tokens or lora.tokens is not None or lora.modules_to_save:
        return []
    return [
        f"The template's tokens {', '.join(chat.tokens)} keep their rows: {recipe.name} cannot train them in an "
        f"adapter. If the model was never trained on them, train them with sft first, or train all parameters; "
        f"{named('lora', 'tokens=new')} confirms that they are known."
    ]


def _endless(start: Checkpoint, chat: Chat) -> list[str]:
    """A warning where generation will not stop at what the fine-tuning teaches as the end of an answer."""
    settings = start.sidecars.json("generation_config.json") or {}
    stops = stops_of(settings) or stops_of(start.config)
    if chat.sets_end or not stops or chat.end_id in stops:
        return []
    return [
        f"Answers end with {chat.end_token!r}, but {start.label} does not stop generating there (its eos_token_id is "
        f"{stops}). Pass {named('end_token', chat.end_token)} to make the fine-tuned model stop there."
    ]


def transferred_start(prepared: Prepared) -> dict[str, Any] | None:
    """What the model's manifest says, where the model is the output of a transfer."""
    try:
        manifest = read_json(read_bytes(prepared.start.path / MANIFEST, prepared.start.path, MOST_RECORD_BYTES))
        operation, formula = manifest["operation"], manifest["formula"]
        inputs = [{"role": given["role"], "name": given["name"]} for given in manifest["inputs"]]
        measures = manifest["measures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    own = prepared.chat.template == "the model's own"
    words = (
        f"already contains a fine-tuning by {operation} ({formula}). Steps, tokens and memory are the same, but it starts "
        "closer (section 5 of the paper: same level after fewer steps), so watch the curve "
        f"({named('eval_every')}) and stop early.{' It has the template and end token already.' if own else ''}"
    )
    return {
        "operation": operation,
        "formula": formula,
        "inputs": inputs,
        "measures": measures,
        "words": spoken([words])[0],
    }


def _stored_dtype(asked: str | None, lora: Lora | None) -> str | None:
    """torch's name of the dtype to store weights in; None: each in that of the start."""
    if asked is None:
        return None
    spelled = FLOAT_SPELLINGS.get(asked.lower(), asked)
    if spelled not in TORCH_NAMES:
        raise UsageError(Fault("dtype", asked, "must be bfloat16, float16 or float32", "Training computes in float32"))
    if lora is not None:
        told = f"applies to full weights; an adapter ({named('lora')}) is always stored in float32"
        raise UsageError(Fault("dtype", asked, told))
    return TORCH_NAMES[spelled]


def _need_extra(lora: Lora | None, running: TuningRun, recipe: Recipe) -> None:
    if absent := missing(*_NEEDED, *(("peft",) if lora else ())):
        raise UsageError(
            f"Fine-tuning needs {' and '.join(absent)}, which the core does not install. {how_to_install('models')}"
        )
    if running.report_to is not None and missing(running.report_to):
        told = f"Install it: pip install {running.report_to}"
        raise UsageError(Fault("report_to", running.report_to, "is not installed", told))
    if running.tasks and missing("lm_eval"):
        raise UsageError(
            Fault("eval_every", running.eval_every, "needs lm_eval", how_to_install("models").removesuffix("."))
        )
    if isinstance(recipe, DistilRecipe):
        need_harness("hf")  # through which the teacher is asked
