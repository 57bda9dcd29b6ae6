"""Whatever runs a network: the contract, one row and one file for each backend."""
