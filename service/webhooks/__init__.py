"""Webhooks: an outbox of signed messages, and what delivers them."""
