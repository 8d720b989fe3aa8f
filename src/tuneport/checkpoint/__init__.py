"""What lies on disk, or behind a Hub id: tensors by name and byte range, and the files that travel beside them."""
