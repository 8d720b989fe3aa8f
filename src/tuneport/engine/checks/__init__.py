"""Checks of a transfer before anything is written, and again once everything is measured."""
