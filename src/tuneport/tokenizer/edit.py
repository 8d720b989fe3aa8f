"""Write the output's tokenizer files: the target's, with renamed and added tokens and merged sections.

Returns the files that differ, by name. The tuned model's files give the merges and scores of added pieces. Every token
of the target keeps its id and its meaning, each added token gets its planned id, and the result is read again to check
it before it is returned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.errors import SidecarError, named
from tuneport.tokenizer.json_sections import Span, TokenizerText, indentation, locate_sections, render
from tuneport.tokenizer.parsed_sections import MEMBERS, OPTION, Sections
from tuneport.tokenizer.token_changes import TokenChanges, edit_entries, rename_everywhere
from tuneport.tokenizer.tokenizer import (
    Tokenizer,
    assign_added,
    read_added_entries,
    read_plain_vocabulary,
    read_tokenizer,
    read_vocabulary,
    tokenizer_text,
)

# What other readers take instead of tokenizer.json (sentencepiece, mistral-common, tiktoken); they stay unedited.
_NATIVE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "qwen.tiktoken")


@dataclass(frozen=True)
class _Pieces:
    """What the vocabulary proper gains: ids by string, merges or scores from the tuned model, renamed strings."""

    names: Mapping[str, str]
    ids: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    scores: Mapping[str, float]
    vocabulary: Mapping[str, int]
    wanted: Mapping[str, int]


def edit_tokenizer(
    target: SidecarFolder,
    changes: TokenChanges,
    tuned: SidecarFolder,
    sections: Mapping[str, Any] | None = None,
    read: tuple[Tokenizer, Tokenizer, Tokenizer] | None = None,
) -> dict[str, bytes]:
    """The target's tokenizer files that change, by name; the pieces' merges and scores come from ``tuned``.

    ``sections`` are those of tokenizer.json that are not the target's, by their names in `Sections`; ``read`` are the
    tokenizers of base, tuned and target, if they were read. Not among the files are tokenizer_config.json and
    special_tokens_map.json (`edit_added_tokens_decoder`, `rename_everywhere`).
    """
    if not changes and not sections:
        return {}
    theirs, known = (None, None) if read is None else read[1:]
    text = tokenizer_text(target, None if known is None else known.sections)
    files: dict[str, bytes] = {}
    if changes.renamed or changes.added or (changes.entries and text is not None):
        pieces = _pieces(text, changes, tuned, theirs, known or read_tokenizer(target))
        files = _edit_plain_vocabulary(target, pieces) | _edit_added_tokens_json(target, changes, needed=text is None)
        text = None if text is None else _edit_tokenizer_json(text, changes, pieces)
    if text is not None:
        files["tokenizer.json"] = _put_sections(text, sections or {}).data
    return {name: content for name, content in files.items() if content != target.read(name)}


def _pieces(
    text: TokenizerText | None, changes: TokenChanges, tuned: SidecarFolder, theirs: Tokenizer | None, known: Tokenizer
) -> _Pieces:
    """What the vocabulary proper must gain so that every token gets the id that is wanted.

    Added tokens outside the vocabulary get their ids by counting on from it. Where counting would give others (the
    vocabulary has gaps, or grows itself), they are written into the vocabulary too, which pins them.
    """
    names = dict(changes.renamed)
    vocabulary = dict(islice(known.ids.items(), len(known.ids) - len(known.beyond)))
    wanted = _renamed(known.ids, names) | {token.token: token.id for token in changes.added}
    own = {token.token: token.id for token in changes.added if not token.entry}
    listed = edit_entries([dict(entry) for entry in known.added.values()], changes)
    merges: tuple[tuple[str, str], ...] = ()
    scores: dict[str, float] = {}
    if own:
        tuned_text = tokenizer_text(tuned, None if theirs is None else theirs.sections)
        merges, scores = _tuned_pieces(tuned_text, tuned, text, set(own), set(wanted))
    renamed = _renamed(vocabulary, names)
    counted = {**renamed, **own}
    assign_added(counted, sorted(listed, key=lambda entry: wanted[entry["content"]]))
    gapless = max(renamed.values(), default=-1) + 1 == len(renamed)  # else the library's releases count differently
    if counted != wanted or not gapless:
        own = {token: id for token, id in wanted.items() if token not in renamed}
    return _Pieces(names, own, merges, scores, vocabulary, wanted)


def stale_files(target: SidecarFolder, changes: TokenChanges) -> list[str]:
    """The target's tokenizer files that cannot be edited and would contradict the output's: to be left behind."""
    return [name for name in _NATIVE_FILES if (changes.renamed or changes.added) and target.has(name)]


def can_rename(target: SidecarFolder, pieces: set[str], sections: Sections | None = None) -> set[str]:
    """Those of the target's ``pieces`` that no merge builds or uses, so that a new name breaks no other token.

    ``sections`` are those of its tokenizer.json, if they were read.
    """
    merges = _merges(target, tokenizer_text(target, sections), pieces)
    used = {piece for left, right in merges for piece in (left, right, left + right)}
    return pieces - used


def _edit_tokenizer_json(text: TokenizerText, changes: TokenChanges, pieces: _Pieces) -> TokenizerText:
    wanted, text = pieces.wanted, _spelling_out(text, ["added_tokens"])
    entries = edit_entries(read_added_entries(text), changes)
    if changes.added or changes.renamed:
        entries.sort(key=lambda entry: wanted[entry["content"]])
    splices = {text.members["added_tokens"]: (entries, 1), **_sections(text, pieces, changes.renamed_entries)}
    result = _append_merges(_splice(text, splices), pieces.merges)

    edited, _ = splices.get(text.model["vocab"], (pieces.vocabulary, 0))
    ids = dict(edited) if isinstance(edited, Mapping) else read_vocabulary(result)
    assign_added(ids, read_added_entries(result))
    wrong = [token for token, id in ids.items() if wanted.get(token) != id]
    wrong += [token.token for token in changes.added if token.token not in ids]
    if wrong:
        raise SidecarError(
            f"{text.where}: the token {wrong[0]!r} cannot get the id {wanted.get(wrong[0])} (it would be "
            f"{ids.get(wrong[0])}), because the vocabulary has another size. Pass {named('new_tokens', 'drop')}."
        )
    return result


def _sections(text: TokenizerText, pieces: _Pieces, names: Mapping[str, str]) -> dict[Span, tuple[Any, int]]:
    """The sections that change, each with its new value and the depth at which it stands."""
    splices: dict[Span, tuple[Any, int]] = {}
    for section in MEMBERS if names else ():
        value = text.member(section)
        renamed = rename_everywhere(value, names)
        if renamed != value:
            splices[text.members[section]] = (renamed, 1)
    unknown = text.model_member("unk_token")
    if unknown in pieces.names:
        splices[text.model["unk_token"]] = (pieces.names[unknown], 2)
    if not pieces.names and not pieces.ids:
        return splices
    vocab = text.model_member("vocab")
    if isinstance(vocab, list):
        edited: Any = [[pieces.names.get(piece, piece), score] for piece, score in vocab]
        gained = sorted(pieces.ids, key=pieces.ids.__getitem__)
        edited += [[piece, pieces.scores.get(piece, 0.0)] for piece in gained]
    else:
        edited = _edit_vocabulary(vocab, pieces)
    if edited != vocab:
        splices[text.model["vocab"]] = (edited, 2)
    return splices


def _renamed(ids: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    return {names.get(token, token): id for token, id in ids.items()} if names else dict(ids)


def _edit_vocabulary(vocab: Mapping[str, int], pieces: _Pieces) -> dict[str, int]:
    return _renamed(vocab, pieces.names) | dict(sorted(pieces.ids.items(), key=lambda item: item[1]))


def _put_sections(text: TokenizerText, sections: Mapping[str, Any]) -> TokenizerText:
    text = _spelling_out(text, [name for name, value in sections.items() if value is not None])
    splices: dict[Span, tuple[Any, int]] = {}
    for name, value in sections.items():
        members, level = (text.model, 2) if name.startswith(OPTION) else (text.members, 1)
        span = members.get(name.removeprefix(OPTION))
        if span is not None:
            splices[span] = (value, level)
    return _splice(text, splices)


def _spelling_out(text: TokenizerText, names: list[str]) -> TokenizerText:
    """The same document with every one of these members in it, null where it had none."""
    options = [name.removeprefix(OPTION) for name in names if name.startswith(OPTION)]
    lacking = [name for name in names if not name.startswith(OPTION) and name not in text.members]
    lacking_options = [name for name in options if name not in text.model]
    if not lacking and not lacking_options:
        return text
    data, model = text.data, text.members["model"].start + 1
    start = data.index(b"{") + 1
    data = data[:start] + _nulls(lacking) + data[start:model] + _nulls(lacking_options) + data[model:]
    return locate_sections(data, text.where)


def _nulls(names: list[str]) -> bytes:
    return "".join(f"{json.dumps(name)}: null, " for name in names).encode()


def _splice(text: TokenizerText, splices: Mapping[Span, tuple[Any, int]]) -> TokenizerText:
    """The document with other values at some spans, each at a depth; what stands elsewhere moves along."""
    indent = indentation(text.data)
    return _replace(text, {span: render(value, indent, level, text.data) for span, (value, level) in splices.items()})


def _replace(text: TokenizerText, contents: Mapping[Span, bytes]) -> TokenizerText:
    parts: list[bytes] = []
    position, moves = 0, []
    for span, content in sorted(contents.items(), key=lambda item: item[0].start):
        parts += [text.data[position : span.start], content]
        position = span.end
        moves.append((span.end, len(content) - (span.end - span.start)))

    def moved(span: Span) -> Span:
        # What ends before a span begins at or before its start; what it holds ends at or before its end.
        start = span.start + sum(by for end, by in moves if end <= span.start)
        return Span(start, span.end + sum(by for end, by in moves if end <= span.end))

    members, model = ({name: moved(span) for name, span in spans.items()} for spans in (text.members, text.model))
    return TokenizerText(text.where, b"".join([*parts, text.data[position:]]), members, model)


def _append_merges(text: TokenizerText, merges: tuple[tuple[str, str], ...]) -> TokenizerText:
    """The document with merges appended: last in rank, so that no merge of the target is decided otherwise."""
    if not merges:
        return text
    data, span = text.data, text.model["merges"]
    body = data[span.start + 1 : span.end - 1].strip()
    as_pairs = body.startswith(b"[")
    indent = indentation(data)
    items = [list(merge) if as_pairs else " ".join(merge) for merge in merges]
    rendered = [render(item, indent, 3, data) for item in items]
    gap = b"" if indent is None else b"\n" + b" " * (indent * 3)
    last = b"" if indent is None else b"\n" + b" " * (indent * 2)
    joined = b"".join(b"," + gap + item for item in rendered)
    if not body:
        joined = joined[1:]
    return _replace(text, {span: b"[" + (gap + body if body else b"") + joined + last + b"]"})


def _tuned_pieces(
    text: TokenizerText | None, tuned: SidecarFolder, target: TokenizerText | None, own: set[str], known: set[str]
) -> tuple[tuple[tuple[str, str], ...], dict[str, float]]:
    """What makes the tuned model's ``own`` pieces come out of text: their merges in its order, or their scores."""
    if text is not None and text.is_list("vocab"):
        return (), {piece: score for piece, score in text.model_member("vocab") if piece in own}
    if target is not None and ("merges" not in target.model or target.model_member("continuing_subword_prefix")):
        return (), {}
    found = _merges(tuned, text, own)
    return tuple((left, right) for left, right in found if {left, right, left + right} <= known), {}


def _merges(folder: SidecarFolder, text: TokenizerText | None, pieces: Set[str]) -> Iterator[tuple[str, str]]:
    """The merges that use or make one of these pieces, in order."""
    if text is not None:
        yield from text.merges(pieces)
        return
    for line in (folder.text("merges.txt") or "").split("\n"):
        left, _, right = line.rstrip("\r").partition(" ")
        if right and not line.startswith("#version") and not pieces.isdisjoint((left, right, left + right)):
            yield left, right


def _edit_plain_vocabulary(target: SidecarFolder, pieces: _Pieces) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    data = target.read("vocab.json")
    vocabulary = read_plain_vocabulary(target) if data is not None else {}
    if data is not None and (pieces.names or pieces.ids):
        edited = _edit_vocabulary(vocabulary, pieces)
        files["vocab.json"] = render(edited, indentation(data), 0, data)
    merges = target.text("merges.txt")
    if merges is not None and pieces.merges:
        lines = [f"{left} {right}" for left, right in pieces.merges]
        files["merges.txt"] = "\n".join([merges.rstrip("\n"), *lines, ""]).encode("utf-8")
    lines_text = target.text("vocab.txt")
    if lines_text is not None and (pieces.names or pieces.ids):
        lines = [pieces.names.get(line, line) for line in lines_text.removesuffix("\n").split("\n")]
        for piece, id in sorted(pieces.ids.items(), key=lambda item: item[1]):
            if id != len(lines):
                raise SidecarError(
                    f"{target.role} {target.label}: vocab.txt has {len(lines)} lines with duplicates, so the piece "
                    f"{piece!r} cannot get the id {id}. Pass {named('new_tokens', 'drop')}."
                )
            lines.append(piece)
        files["vocab.txt"] = "\n".join([*lines, ""]).encode("utf-8")
    return files


def _edit_added_tokens_json(target: SidecarFolder, changes: TokenChanges, *, needed: bool) -> dict[str, bytes]:
    """added_tokens.json where the target has one, or where nothing else would name the added tokens."""
    old = target.json("added_tokens.json")
    spelled = "added_tokens_decoder" in (target.json("tokenizer_config.json") or {})
    if old is None and (spelled or not needed):
        return {}
    entries = [{"id": id, "content": content} for content, id in (old or {}).items()]
    edited = {entry["content"]: entry["id"] for entry in edit_entries(entries, changes)}
    return {"added_tokens.json": (json.dumps(edited, indent=2, ensure_ascii=False) + "\n").encode("utf-8")}
