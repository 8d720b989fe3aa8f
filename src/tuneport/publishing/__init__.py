"""Publish a finished folder on the Hub."""
