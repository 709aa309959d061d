"""Tests of pump."""
