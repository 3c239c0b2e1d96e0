"""The exact step on a GPU. Nothing here is imported unless a GPU is used: see `backends.py`."""
