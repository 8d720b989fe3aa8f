"""Measure what a plan would do, instead of doing it."""
