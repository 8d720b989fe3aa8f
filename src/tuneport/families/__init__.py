"""The lab: families of tiny language models, pretrained on this machine, to try out a transfer.

A procedural corpus, a word-level tokenizer, two-stage pretraining, a plain fine-tuning loop and exact-match scoring,
all small enough for two cores and a few minutes. Torch and transformers are imported only inside the functions that
need them.
"""
