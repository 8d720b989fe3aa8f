"""Results become one page."""
