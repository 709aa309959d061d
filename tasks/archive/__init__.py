"""Entries as a Parquet dataset: rows, column types, and files that are whole or absent."""
