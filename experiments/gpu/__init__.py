"""`make gpu-check`: what tuneport does on an NVIDIA GPU, measured in under eight minutes on a machine without a network."""
