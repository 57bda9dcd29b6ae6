"""A folder of engines on disk: files written whole, digests, recorded cases and what they are for."""
