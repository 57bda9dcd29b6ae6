"""What the guard costs, and what building costs."""
