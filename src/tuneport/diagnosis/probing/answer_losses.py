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
from tuneport.scoring.measured_tokens import Pair, Pairing

KEPT = 64  # likeliest tokens of a place that are counted separately; the others count as one


@dataclass(frozen=True)
class ExpectedTokens:
    """What the model whose answer it is expected: the answer's tokens, and the likeliest at each place, with the rest as one.

    ``likeliest`` has a row of strings for each token (None: an id without a string), ``logs`` their log-probabilities and ``rest``
    the probability of all others.
    """

    tokens: tuple[str | None, ...]
    likeliest: list[list[str | None]]
    logs: NDArray[np.float64]
    rest: NDArray[np.float64]


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

    def logs(self, pair: Pair) -> Any:
        """Log-probabilities at each of the answer's tokens: a tensor of torch, tokens × vocabulary."""
        import torch

        model, count = self._model, len(pair.answer)
        prompt, answer = (torch.tensor([ids], device=model.device) for ids in (pair.prompt, pair.answer))
        with torch.no_grad():
            if model.backend == "seq2seq":
                logits = model._model_call(prompt, torch.ones_like(prompt), answer)
            else:
                whole = torch.cat([prompt, answer[:, :-1]], dim=1)
                logits = model.model(whole, **({"logits_to_keep": count} if self._cuts else {})).logits
            found = torch.log_softmax(logits[0, -count:].float(), dim=-1)
        if not bool(torch.isfinite(found.max(dim=-1).values).all()):
            raise NumericsError(f"model {model.name}: the loss of an answer is NaN or infinite.")
        return found

    def loss(self, pair: Pair, logs: Any) -> float:
        """Nats of the whole answer."""
        import torch

        ids = torch.tensor(pair.answer, device=logs.device)[:, None]
        return -float(logs.gather(1, ids).sum(dtype=torch.float64))

    def expected(self, pair: Pair, logs: Any) -> ExpectedTokens:
        """What this model, whose answer it is, expected at each place."""
        likeliest = logs.topk(min(KEPT, logs.shape[1]), dim=1)
        ids = likeliest.indices.tolist()
        return ExpectedTokens(
            tuple(self._strings(pair.answer)),
            [self._strings(row) for row in ids],
            _numpy(likeliest.values),
            _rest(logs, likeliest.indices),
        )

    def divergence(self, expected: ExpectedTokens, pair: Pair, logs: Any) -> Divergence | None:
        """KL from the model that answered to this one; None where this one cuts the answer into other tokens.

        Tokens that this one does not have count among the rest.
        """
        import torch

        if tuple(self._strings(pair.answer)) != expected.tokens:
            return None
        ids = [[self._ids.get(token, -1) if token is not None else -1 for token in row] for row in expected.likeliest]
        known = np.array(ids) >= 0
        places = torch.tensor(ids, device=logs.device).clamp(min=0)
        mine = np.where(known, _numpy(logs.gather(1, places)), 0.0)
        theirs = np.where(known, expected.logs, 0.0)
        told = np.where(known, np.exp(theirs) * (theirs - mine), 0.0).sum(axis=1)
        unknown = np.where(known, 0.0, np.exp(expected.logs)).sum(axis=1)
        one, other = expected.rest + unknown, _rest(logs, places, known)
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = np.where(one > 0, one * np.log(one / np.maximum(other, np.finfo(np.float64).tiny)), 0.0)
        return Divergence(float((told + rest).sum()), len(expected.tokens))

    def _strings(self, ids: Sequence[int]) -> list[str | None]:
        found: list[str | None] = self._model.tokenizer.convert_ids_to_tokens(list(ids))
        return found


def _rest(logs: Any, places: Any, known: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """The probability of all tokens but those at ``places`` (those that are ``known``), in each row."""
    import torch

    left = logs.exp()
    counted = torch.ones_like(places, dtype=torch.bool) if known is None else torch.from_numpy(known).to(places.device)
    rows, _ = counted.nonzero(as_tuple=True)
    left[rows, places[counted]] = 0
    return _numpy(left.sum(dim=1, dtype=torch.float64))


def _numpy(values: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.double().cpu().numpy()
    return found
