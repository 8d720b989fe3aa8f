"""The ladder: what to do where plain addition is not enough, from the cheapest attempt to the dearest."""
