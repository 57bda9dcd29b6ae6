"""The latency benchmark: what it runs, what it makes of it, and what it writes."""
