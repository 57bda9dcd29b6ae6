"""Single questions, each measured once: which form, which exporter, which precision."""
