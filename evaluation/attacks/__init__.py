"""Attacks on a guard: searches for prompts whose guarded picture shows the concept all the same. One file for each."""
