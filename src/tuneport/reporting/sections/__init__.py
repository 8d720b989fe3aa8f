"""The sections of a page, in order; HTML and Markdown both print them."""
