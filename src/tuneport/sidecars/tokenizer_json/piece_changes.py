"""Whether a fine-tuning changed how text is split into pieces: the merges of a BPE model, the scores of a Unigram model.

The output keeps the target's (with those of new pieces appended), so a change is reported. Two files are read only if
their bytes differ there; version 5 of transformers writes the merges of version 4 in another form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from blake3 import blake3

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.sidecars.three_way import MergeFindings, Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.json_sections import TokenizerText
from tuneport.tokenizer.tokenizer import tokenizer_text


def tell_piece_changes(folders: Three, sections: Three, names: TokenNames, findings: MergeFindings) -> None:
    """Warn where base and tuned make other pieces of a text, unless the target makes the tuned model's.

    ``known`` is base's vocabulary: pieces beyond it are the tuned model's own. None where it was not read.
    """
    if None in sections or sections.tuned.kind not in ("BPE", "Unigram"):
        return
    base, tuned, target = sections
    if base.kind != tuned.kind or tuned.pieces in (base.pieces, target.pieces):
        return
    made = _made(folders.tuned, None)
    if made == _made(folders.base, None) or (target.kind == tuned.kind and made == _made(folders.target, None)):
        return
    known = None if names.tokenizers is None else names.tokenizers[0].ids
    if known is not None and _made(folders.tuned, known) == _made(folders.base, known):
        return
    what = "merges" if tuned.kind == "BPE" else "scores of pieces"
    findings.warnings.append(
        f"tokenizer.json: the fine-tuning changed the {what} of the base's vocabulary. The output keeps the target's, "
        f"so it may split text differently from the tuned model."
    )


def _made(folder: SidecarFolder, known: Mapping[str, int] | None) -> str:
    """A digest of merges or scores in their order, free of any spelling; of pieces that are ``known``, if given."""
    text = tokenizer_text(folder)
    assert text is not None
    digest = blake3()
    for block in _pieces(text, known):
        digest.update("\0".join([*block, ""]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _pieces(text: TokenizerText, known: Mapping[str, int] | None) -> Iterator[list[str]]:
    """What is said of pieces: "left right" of merges, "piece score" of a list of scores."""
    vocabulary = None if "merges" in text.model else text.model_member("vocab")
    if isinstance(vocabulary, list):
        yield [f"{piece} {float(score)}" for piece, score in vocabulary if known is None or piece in known]
        return
    for items in text.merges_as_written():
        lines = [item if isinstance(item, str) else " ".join(item) for item in items]
        yield lines if known is None else [line for line in lines if _is_known(line, known)]


def _is_known(merge: str, known: Mapping[str, int]) -> bool:
    left, _, right = merge.partition(" ")
    return left in known and right in known and left + right in known
