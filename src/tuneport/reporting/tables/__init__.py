"""The tables and sentences of a page, before they are written as HTML or Markdown."""
