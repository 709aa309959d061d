-- keys: partitions topic tally
-- args: count key hash
--
-- Store how a topic is partitioned. The reply is nil, or the stored values if they differ, or {'plain'} for a topic with entries in no
-- partition.
-- include: partitioned
return partitioned(partitions, topic, tally, count, key, hash)
