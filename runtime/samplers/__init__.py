"""Samplers as linear recurrences, and the noise schedules that they take."""
