"""Metrics of topics, groups and inlets for Prometheus."""
