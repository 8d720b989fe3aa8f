"""Open files that others wrote within limits, check them, and make them safe to show; write files that others read."""
