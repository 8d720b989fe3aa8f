"""Judges the paper's claims by families of the lab, from the folders of their studies."""
