"""What the ladder is worth, on families of tiny models that nobody has looked at."""
