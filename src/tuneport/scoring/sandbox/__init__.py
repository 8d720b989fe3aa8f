"""Generated programs, run in a sandbox that the user names."""
