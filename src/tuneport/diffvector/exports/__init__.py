"""A diff vector in the forms that others load: a PEFT adapter, or a sparse patch for a running server."""
