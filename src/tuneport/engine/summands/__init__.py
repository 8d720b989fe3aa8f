"""What is added to a target: one difference or several, each with its tokens, its tensors and its small files."""
