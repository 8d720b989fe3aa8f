"""The diff vector as a thing of its own: taken, stored, checked, applied."""
