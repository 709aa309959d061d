"""The streamz nodes `from_redis`, `engine`, `to_redis` and `to_parquet`."""
