"""Requests to hosts that callers named, through a guard."""
