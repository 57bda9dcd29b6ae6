"""The SafeRedir method in PyTorch: heads, redirection rule, checkpoints and training."""
