"""The servers of one machine as child processes: Redis and Prefect."""
