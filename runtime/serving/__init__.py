"""Guarded pictures over HTTP: one process, one engine thread, a bounded queue before it. Needs the extra `serve`."""
