"""Makes the pages of docs/: `python -m experiments.pages.NAME_page [--check]`, all of them by `make docs`."""
