"""What is told of a transfer before its first byte is written, and again when all is measured."""
