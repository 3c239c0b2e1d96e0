"""Knows characters and slots, nothing of HTTP."""
