"""A finished folder goes to the Hub."""
