"""What a page says: its sections in order, which HTML and Markdown both print."""
