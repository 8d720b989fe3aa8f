"""How likely a model finds an answer that another one gave, token by token, and how far its distribution is from that one's.

Computes the loss of an answer after its prompt and, for the model whose answer it is, its likeliest tokens at each
place. Tokens of two models are matched by their strings.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.errors import NumericsError
from tuneport.scoring.answers.lumped_divergence import lumped_divergence
from tuneport.scoring.measured_tokens import Pair, Pairing

KEPT = 64  # likeliest tokens of a place that are counted separately; the others count as one


@dataclass(frozen=True)
class LikeliestTokens:
    """At each of n places the k likeliest tokens of a model, by its own ids (n × k), and their log-probabilities.

    ``rest`` is the probability of all others.
    """

    ids: NDArray[np.int32]
    logs: NDArray[np.float32]
    rest: NDArray[np.float32]


@dataclass(frozen=True)
class ExpectedTokens:
    """What the model whose answer it is expected: the answer's tokens, and the likeliest at each place, by their strings.

    None: an id without a string.
    """

    tokens: tuple[str | None, ...]
    strings: list[list[str | None]]
    likeliest: LikeliestTokens


@dataclass(frozen=True)
class Divergence:
    """KL from the answering model to another one, in nats, summed over the answer's tokens; a lower bound, the rest being one."""

    nats: float
    tokens: int


class AnswerLosses:
    """A model that is given answers of others."""

    def __init__(self, model: Any) -> None:
        """``model`` is the harness's."""
        self._model = model
        self._pairing = Pairing.of(model.tokenizer, model.plain_ids, encoder=model.backend == "seq2seq")
        self._ids: dict[str, int] = model.tokenizer.get_vocab()
        self._cuts = "logits_to_keep" in inspect.signature(model.model.forward).parameters

    def pair(self, prompt: str, answer: str, *, rendered: bool) -> Pair:
        """The tokens of prompt and answer; ``rendered``: a chat template wrote the prompt."""
        return self._pairing.paired(prompt, [answer], rendered=rendered).pairs[0]

    def logs(self, pair: Pair, *, after: bool = False) -> Any:
        """Log-probabilities at each of the answer's tokens: a tensor of torch, tokens × vocabulary.

        ``after``: with a last row for what follows the answer (not for models with an encoder).
        """
        import torch

        model, count = self._model, len(pair.answer) + after
        prompt, answer = (torch.tensor([ids], device=model.device) for ids in (pair.prompt, pair.answer))
        with torch.no_grad():
            if model.backend == "seq2seq":
                logits = model._model_call(prompt, torch.ones_like(prompt), answer)
            else:
                whole = torch.cat([prompt, answer if after else answer[:, :-1]], dim=1)
                logits = model.model(whole, **({"logits_to_keep": count} if self._cuts else {})).logits
            found = torch.log_softmax(logits[0, -count:].float(), dim=-1)
        if not bool(torch.isfinite(found.max(dim=-1).values).all()):
            raise NumericsError(f"model {model.name}: the loss of an answer is NaN or infinite.")
        return found

    def loss(self, pair: Pair, logs: Any) -> float:
        """Nats of the whole answer; a row for what follows it is not looked at."""
        import torch

        ids = torch.tensor(pair.answer, device=logs.device)[:, None]
        return -float(logs[: len(pair.answer)].gather(1, ids).sum(dtype=torch.float64))

    def expected(self, pair: Pair, logs: Any) -> ExpectedTokens:
        """What this model, whose answer it is, expected at each place."""
        found = likeliest(logs, KEPT)
        return ExpectedTokens(
            tuple(self.strings(pair.answer)), [self.strings(row) for row in found.ids.tolist()], found
        )

    def divergence(self, expected: ExpectedTokens, pair: Pair, logs: Any) -> Divergence | None:
        """KL from the model that answered to this one; None where this one cuts the answer into other tokens.

        Tokens that this one does not have count among the rest.
        """
        import torch

        if tuple(self.strings(pair.answer)) != expected.tokens:
            return None
        ids = [[self._ids.get(token, -1) if token is not None else -1 for token in row] for row in expected.strings]
        theirs = (expected.likeliest.logs, expected.likeliest.rest)
        with torch.no_grad():
            found = lumped_divergence(
                logs.double().cpu(), torch.tensor(ids), *(torch.from_numpy(each).double() for each in theirs)
            )
        return Divergence(float(found.sum()), len(expected.tokens))

    def strings(self, ids: Sequence[int]) -> list[str | None]:
        """Tokens by their strings."""
        found: list[str | None] = self._model.tokenizer.convert_ids_to_tokens(list(ids))
        return found


def likeliest(logs: Any, most: int) -> LikeliestTokens:
    """The likeliest tokens, at most so many of each row of log-probabilities (n × vocabulary), and the rest."""
    import torch

    found = logs.topk(min(most, logs.shape[1]), dim=1)
    rest = logs.exp().scatter(1, found.indices, 0.0).sum(dim=1, dtype=torch.float64)
    return LikeliestTokens(
        found.indices.int().cpu().numpy(), found.values.float().cpu().numpy(), rest.float().cpu().numpy()
    )
