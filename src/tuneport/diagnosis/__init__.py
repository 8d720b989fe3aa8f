"""Will a transfer work, and why not: how far versions lie apart, and what lies between them."""
