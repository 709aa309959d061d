"""One member of a consumer group: reads, recovers, acknowledges, and puts dead letters away."""
