"""Half precision: which network computes in what, the rewriting, and its emulation on a CPU."""
