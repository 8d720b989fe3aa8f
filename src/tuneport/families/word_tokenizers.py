"""The tokenizers of the two versions: one token per word, numbers included.

Version 2 has names that version 1 lacks, inserted in the middle of the vocabulary as in many new releases, so that
every later id shifts. The chat tokens are at the very end. Only tuned models have a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from tuneport.families import corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, SEPARATOR = "<pad>", "<unk>", "<eos>"
USER, ASSISTANT, END = "<user>", "<asst>", "<end>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user> {{ message['content'] }} {% else %}<asst> "
    "{{ message['content'] }} <end> {% endif %}{% endfor %}{% if add_generation_prompt %}<asst>{% endif %}"
)


def words(version: int) -> list[str]:
    """Every token of version 1 or 2, in the order of its ids."""
    sentences = chain.from_iterable(corpus.SENTENCES.values())
    plain = (
        "how many now there are + - = ; . ? , and the of is what which has tell me repeat list say first "
        "word answer again one by"
    )
    names = [*corpus.KNOWN_NAMES, *(corpus.INSERTED_NAMES if version == 2 else ()), *corpus.UNUSED_NAMES]
    found = [
        PAD,
        UNKNOWN,
        SEPARATOR,
        *corpus.NUMBERS,
        *names,
        *chain.from_iterable(corpus.VALUES.values()),
        *corpus.VALUES,
        *(word for sentence in sentences for word in sentence.split() if "{" not in word),
        *plain.split(),
        *corpus.ADJECTIVES,
        *corpus.NOUNS,
        *corpus.VERBS,
        *corpus.PEOPLE,
        *corpus.THINGS,
        *corpus.GAINS,
        *corpus.LOSSES,
        USER,
        ASSISTANT,
        END,
    ]
    return list(dict.fromkeys(found))


def tokenizer_of(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of these words, ids in their order; those in angle brackets are special."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([word for word in words if word.startswith("<")])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=SEPARATOR,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def chat_prompt(question: str) -> str:
    """What a tuned model gets when it is asked `question`: the chat template, filled in."""
    return f"{USER} {question} {ASSISTANT}"
