"""The lab: a family of tiny real language models, pretrained on the spot, to see a fine-tuning carried over.

A procedural corpus, a word-level tokenizer, two-stage pretraining, a plain fine-tuning loop and exact-match
scoring, all small enough for two cores and a few minutes. Torch and transformers are imported only inside
the functions that need them.
"""
