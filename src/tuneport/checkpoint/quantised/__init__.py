"""Weights stored as small codes with scales, read as the float32 numbers that they stand for."""
