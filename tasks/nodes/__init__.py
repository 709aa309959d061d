"""The streamz nodes `from_redis`, `engine`, `map_in_processes`, `to_redis` and `to_parquet`."""
