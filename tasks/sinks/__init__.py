"""Idempotent sinks: they take deliveries with stable ids, so that a repeated delivery has no second effect."""
