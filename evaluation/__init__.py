"""Guards are measured and attacked here: prompts, judges of pictures, metrics, attacks."""
