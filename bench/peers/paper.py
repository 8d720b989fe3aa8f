"""The paper's way, as the authors' own script goes about it: three models loaded through transformers, added, saved.

It loads in bfloat16, adds in float64 over the state dict, loads the sum into the fine-tuned model and saves that, with
the tuned model's tokenizer and config. Where embedding and head are tied the state dict names one tensor twice, so its
difference is added twice; that is kept as it is.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

base_folder, tuned_folder, target_folder, out = sys.argv[1:5]
tuned = AutoModelForCausalLM.from_pretrained(tuned_folder, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(tuned_folder)
base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
target = AutoModelForCausalLM.from_pretrained(target_folder, dtype=torch.bfloat16)
before, after, sums = base.state_dict(), tuned.state_dict(), target.state_dict()
assert before.keys() == after.keys() == sums.keys()
for name in after:
    sums[name] += after[name].double() - before[name].double()
tuned.load_state_dict(sums)
tuned.save_pretrained(out)
tokenizer.save_pretrained(out)
