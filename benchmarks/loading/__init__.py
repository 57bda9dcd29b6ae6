"""How long engines take to load."""
