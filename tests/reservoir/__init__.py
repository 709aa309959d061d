"""Tests of reservoir."""
