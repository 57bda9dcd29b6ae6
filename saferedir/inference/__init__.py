"""The heads as engines run them: fewer operations, the same result."""
