"""Write the page as HTML and Markdown, with its figures."""
