"""The PyPI package `residuals`, by its documented calls: residuals of two models, applied to a third, saved.

Its documented dtype is float32, which holds two models, their difference and the target in four bytes each and writes a
checkpoint of float32; the fourth argument takes bfloat16 instead, which is its fastest way and the default here.
"""

import sys

import torch
from residuals import Residuals

base, tuned, target, out = sys.argv[1:5]
dtype = getattr(torch, sys.argv[5]) if len(sys.argv) > 5 else torch.bfloat16
residuals = Residuals.from_models(base_model=base, instruct_model=tuned, dtype=dtype)
residuals.apply(base_model=target, out_dir=out, model_dtype=dtype)
