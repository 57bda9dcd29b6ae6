"""What the heads are trained with."""
