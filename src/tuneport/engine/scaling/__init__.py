"""Which scale each tensor, layer and token has."""
