"""Layouts of real model families, through the real engine and command line."""
