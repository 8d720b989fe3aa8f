"""Which tensor, and which row of it, belongs to which. Everything is accounted for; nothing is skipped quietly."""
