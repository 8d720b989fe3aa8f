"""Writes ``src/tuneport/pairing/vocabulary_tensors.json``: which tensors of each kind of model have one row per token.

Every class that transformers has for causal, sequence-to-sequence and multimodal language models is built on the meta
device (no memory is taken) with a vocabulary size that nothing else in it has; a tensor with that many rows belongs to the
vocabulary. The table holds what the common names of `tuneport.pairing.vocabulary_names` do not cover, what has such a name and counts
other tokens, which tensors a tied config makes one, and which kinds were looked at. Run it after an upgrade of transformers; ``--check`` compares.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "src" / "tuneport" / "pairing" / "vocabulary_tensors.json"
# Larger than any vocabulary, so that no padding or image id of a default config lies beyond it; a prime, so that no
# product of other sizes meets it.
SIZE = 1_000_003
# A class may have rows for prompts or images behind the vocabulary (CPM-Ant, Moshi, Molmo 2).
MOST_BEHIND = 4096
# A size this little below the vocabulary's counts the same tokens, without the last ones: Gemma 3n's per-layer embeddings
# have no rows for tokens of images and audio. BERT-like classes count other things in the same units (RoCBert's shapes).
_SAME_TOKENS = 0.99
MAPPINGS = (
    ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    ("AutoModelForImageTextToText", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
    ("AutoModelForMultimodalLM", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"),
)
# What a bare config of a kind lacks before its class can be built.
SETTINGS: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"], "num_hidden_layers": 2}},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48}},
    "dots1": {"n_routed_experts": 4},
    "emu3": {"vocabulary_map": {}},
    "granite4_vision": {"deepstack_layer_map": [[0, 0]], "downsample_rate": "4/8"},
    "hunyuan_v1_dense": {"head_dim": 64},
    "hunyuan_v1_moe": {"head_dim": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "ministral": {"head_dim": 64},
    "nemotron": {"num_key_value_heads": 4},
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": 64}}},
    "qwen3_omni_moe": {
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 64}}
    },
    "reformer": {"is_decoder": True},
}


def table() -> dict[str, Any]:
    """The table as the installed transformers has it."""
    from tuneport.pairing.vocabulary_names import is_commonly_named

    kinds: set[str] = set()
    vocabulary: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    tied: dict[str, dict[str, str]] = {}
    for kind, model in built():
        kinds.add(kind)
        ties = dict(model.all_tied_weights_keys)
        tensors = in_memory(model)
        names = _of_the_vocabulary(tensors)
        _tell_other_sizes(kind, model, tensors)
        files = saved(model)
        if unknown := {name for name in names | _of_the_vocabulary(files) if not is_commonly_named(name)}:
            vocabulary.setdefault(kind, set()).update(unknown)
        if other := {name for name, tensor in {**files, **tensors}.items() if _is_misnamed(name, tensor)}:
            others.setdefault(kind, set()).update(other)
        own = {name: source for name, source in ties.items() if name in names}
        if any(not _is_common_tie(name, source, names) for name, source in own.items()):
            tied.setdefault(kind, {}).update(own)
    return {
        "kinds": sorted(kinds),
        "vocabulary": {kind: sorted(names) for kind, names in sorted(vocabulary.items())},
        "others": {kind: sorted(names) for kind, names in sorted(others.items())},
        "tied": {kind: dict(sorted(names.items())) for kind, names in sorted(tied.items())},
    }


def built() -> Iterator[tuple[str, Any]]:
    """Kind and model, on the meta device, of each class that can be built; the others are named on stderr.

    Where the defaults of a kind are no model, a tiny one of it may be.
    """
    import torch
    import transformers
    from transformers.models.auto import modeling_auto

    from experiments.trials.tiny_kinds import NotMadeError, tiny_config, tiny_model

    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    _stand_in_for_timm()
    for auto, mapping in MAPPINGS:
        for kind in getattr(modeling_auto, mapping):
            try:
                config = transformers.CONFIG_MAPPING[kind](**SETTINGS.get(kind, {}))
                enlarge(config)
                if hasattr(config, "tie_word_embeddings"):
                    config.tie_word_embeddings = True
                with torch.device("meta"):
                    model = getattr(transformers, auto).from_config(config)
            except Exception as error:  # whatever a class raises over its bare config
                try:
                    model = tiny_model(kind, auto, tiny_config(kind, SIZE), device="meta")
                except NotMadeError:
                    told = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
                    print(f"{kind} ({auto}): {told}", file=sys.stderr)
                    continue
            yield kind, model


def _stand_in_for_timm() -> None:
    """Have an empty model stand where a class wants a vision tower of timm's, which has no tensor of the vocabulary."""
    import transformers

    def register(config_class: type) -> None:
        tower = type("EmptyTower", (transformers.PreTrainedModel,), {"config_class": config_class})
        transformers.AutoModel.register(config_class, tower, exist_ok=True)

    for kind in ("timm_wrapper", "gemma3n_vision"):
        register(transformers.CONFIG_MAPPING[kind])


def in_memory(model: Any) -> dict[str, Any]:
    """A model's tensors by their names in memory."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


def saved(model: Any) -> dict[str, Any]:
    """A model's tensors by the names that they have in the files it saves; none where these cannot be had without values."""
    from transformers.core_model_loading import revert_weight_conversion

    try:
        found: dict[str, Any] = revert_weight_conversion(model, dict(model.state_dict()))
    except Exception as error:  # whatever an operation raises that wants values
        print(f"{type(model).__name__}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
        return {}
    return found


def counts_tokens(tensor: Any) -> bool:
    """Whether one of a tensor's dimensions is that of the vocabulary."""
    return any(SIZE <= size <= SIZE + MOST_BEHIND for size in tensor.shape)


def _of_the_vocabulary(tensors: dict[str, Any]) -> set[str]:
    return {name for name, tensor in tensors.items() if tensor.is_floating_point() and counts_tokens(tensor)}


def _is_misnamed(name: str, tensor: Any) -> bool:
    """Whether a tensor is named as an embedding or a head, and counts other tokens than the text's: a Q-Former's, a talker's."""
    from tuneport.pairing.vocabulary_names import is_commonly_named

    return is_commonly_named(name) and not counts_tokens(tensor) and max(tensor.shape) < SIZE


def _is_common_tie(name: str, source: str, names: set[str]) -> bool:
    """Whether common names alone tell that ``name`` is tied to ``source``."""
    from tuneport.pairing.vocabulary_names import EMBEDDING, is_head_weight

    return is_head_weight(name) and [other for other in names if EMBEDDING.search(other)] == [source]


def enlarge(config: Any) -> None:
    """Have every size in a config that counts the text's vocabulary say `SIZE`."""
    size = config.get_text_config().vocab_size
    for part in _parts(config):
        for name, value in vocabulary_fields(part):
            if _SAME_TOKENS * size <= value <= size:
                setattr(part, name, SIZE)


def _parts(config: Any) -> Iterator[Any]:
    """A config and all configs within it."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "model_type"):
            yield from _parts(value)


def vocabulary_fields(part: Any) -> list[tuple[str, int]]:
    """The fields of one config that are sizes of a vocabulary, with their values."""
    return [(name, value) for name, value in vars(part).items() if "vocab_size" in name and isinstance(value, int)]


def _tell_other_sizes(kind: str, model: Any, names: Mapping[str, Any]) -> None:
    """Name on stderr the tensors that have as many rows as a size of a vocabulary that is not the text's: to be looked at."""
    sizes = {size: name for part in _parts(model.config) for name, size in vocabulary_fields(part) if size != SIZE}
    for name, tensor in names.items():
        rows = tensor.shape[0] if tensor.ndim == 2 else 0
        if rows in sizes and rows > MOST_BEHIND:
            print(f"{kind}: {name} has {rows} rows, as {sizes[rows]}: not taken for tokens", file=sys.stderr)


if __name__ == "__main__":
    content = json.dumps(table(), indent=0) + "\n"
    if "--check" in sys.argv:
        sys.exit(0 if TABLE.read_text(encoding="utf-8") == content else f"{TABLE.name} is not what transformers gives.")
    TABLE.write_text(content, encoding="utf-8")
