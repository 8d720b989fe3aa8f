"""Read the weights of models and adapters, from disk or the Hub: tensors by name and byte range."""
