"""Compute the loss from the last hidden state: TRL's way in pieces, or the model's own.

Both give the same numbers, and TRL's saves memory for large vocabularies. But TRL applies the head itself, and does not
know every class (a head with an extra layer, a cap on the logits, adapters on it). So it is compared with the model's
before the first step; if they differ, supervised fine-tuning uses the model's, and other recipes are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tuneport.errors import TrainingError, named
from tuneport.tuning.prepare import Prepared

# Numbers; 64 MiB in float32, several times that with what is computed from them.
SMALL_LOGITS = 2**24
_PROBE = 32  # tokens
# What forward passes raise that are asked for something they do not know.
_OTHER_CLASSES = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)


def wants_plain_loss(prepared: Prepared, model: Any, at_once: int) -> bool:
    """Where the logits of a batch are small; and with an adapter on the head, which TRL's way would not see."""
    longest = min(prepared.length, prepared.encoded.counts.longest)
    logits = at_once * longest * model.get_input_embeddings().weight.shape[0]
    return logits <= SMALL_LOGITS or bool(prepared.taught)


def with_fitting_loss(trainer: Any, plain: bool) -> Any:
    """TRL's SFT trainer with the loss that transformers computes from all logits, where ``plain`` or TRL's is another."""
    import transformers

    class Fitting(trainer):  # type: ignore[misc]  # TRL has no types
        plain_loss = True if plain else None  # None: not known yet
        routing_seen = False

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self.plain_loss is None:
                self.plain_loss = not _trl_knows_the_head(self, model)
            if self.plain_loss and self.aux_loss_enabled:
                self._see_whether_routing_counts(model)
            if not self.plain_loss:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            seen = inputs["attention_mask"].sum()
            self._total_train_tokens += int(self.accelerator.gather(seen).sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            given = {**inputs, "use_cache": False}
            if self.aux_loss_enabled:
                given["output_router_logits"] = True
            loss, outputs = transformers.Trainer.compute_loss(self, model, given, True, num_items_in_batch)
            if self.aux_loss_enabled and num_items_in_batch is not None:
                # The loss of a mixture's routing is a mean over batches, no part of the sum over the update's tokens.
                processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
                too_often = processes - 1 / self.current_gradient_accumulation_steps
                loss = loss - self.router_aux_loss_coef * outputs.aux_loss * too_often
            return (loss, outputs) if return_outputs else loss

        def _see_whether_routing_counts(self, model: Any) -> None:
            """Some mixtures (Llama 4) have the setting, and no such loss."""
            if not self.routing_seen:
                self.routing_seen = True
                if _routing_loss(self, model) is None:
                    self.aux_loss_enabled = False
                    text = self.accelerator.unwrap_model(model).config.get_text_config()
                    text.output_router_logits = False

    Fitting.__name__ = trainer.__name__
    return Fitting


def with_checked_loss(trainer: Any, label: str) -> Any:
    """One of TRL's trainers that knows its own way through the head alone; it stops where that is not the model's."""

    class Checked(trainer):  # type: ignore[misc]  # TRL has no types
        knows_the_head = False

        def compute_loss(self, model: Any, *args: Any, **given: Any) -> Any:
            if not self.knows_the_head and not _trl_knows_the_head(self, model):
                raise TrainingError(
                    f"{label}: TRL's {trainer.__name__} does not know this model's head and computes wrong token "
                    f"probabilities. Fine-tune it with {named('recipe', 'sft')}."
                )
            self.knows_the_head = True
            return super().compute_loss(model, *args, **given)

    Checked.__name__ = trainer.__name__
    return Checked


def _trl_knows_the_head(trainer: Any, model: Any) -> bool:
    """Whether both ways give the same probabilities of a few tokens; all processes decide alike."""
    import torch

    probe = _probe(trainer, model)
    device, ids = trainer.accelerator.device, probe["input_ids"]
    with _leaving_no_trace(device):
        try:
            logits = model(**probe).logits[:, :-1].float() / (getattr(trainer.args, "temperature", None) or 1.0)
            own = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
            apart = (model(**probe, labels=ids, fused_lm_head=True).log_probs.float() - own).abs().max()
        except _OTHER_CLASSES:  # a class that TRL's way fails on
            apart = torch.tensor(float("inf"), device=device)
    most = 0.1 if trainer.args.bf16 else 1e-3  # the roundings of bfloat16, or of float32
    return bool((trainer.accelerator.gather(apart.reshape(1)) < most).all())


def _routing_loss(trainer: Any, model: Any) -> Any:
    """A mixture's loss of its routing on a few tokens; None where it has none."""
    with _leaving_no_trace(trainer.accelerator.device):
        try:
            return getattr(model(**_probe(trainer, model), output_router_logits=True), "aux_loss", None)
        except _OTHER_CLASSES:
            return None


def _probe(trainer: Any, model: Any) -> dict[str, Any]:
    """A few tokens from the middle of the vocabulary, where no markers of images are."""
    import torch

    rows = trainer.accelerator.unwrap_model(model).get_input_embeddings().weight.shape[0]
    ids = (torch.arange(_PROBE, device=trainer.accelerator.device) + rows // 2)[None] % rows
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


@contextmanager
def _leaving_no_trace(device: Any) -> Iterator[None]:
    """Nothing is learned in the block, and what it draws is drawn again after it."""
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
