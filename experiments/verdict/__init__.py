"""What a verdict before the transfer can foresee: families recorded, predictors fitted and judged."""
