"""Files of examples, their digests, and the chat templates that write them."""
