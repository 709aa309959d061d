"""The scripts by which a consumer holds its lease, and moves, counts, acknowledges and dead-letters entries while it holds it.

Those that touch entries check the lease in the same step, so a consumer that was taken for dead changes nothing.

A lease that holds another token is a tombstone: the consumer's entries were claimed. An absent lease has lapsed unnoticed:
nothing was claimed, and the consumer's commands count as before. (A consumer that was away for so long that its tombstone may
have lapsed counts as dead: see `Membership.renew`.)
"""

from tasks.reservoir.lua import load

__all__ = ["ACK", "COUNT", "DEAD_LETTER", "LAPSE", "MOVE", "OWN", "RELEASE", "RENEW", "RETIRE"]

ACK = load(__file__, "ack")
COUNT = load(__file__, "count")
DEAD_LETTER = load(__file__, "dead_letter")
LAPSE = load(__file__, "lapse")
MOVE = load(__file__, "move")
OWN = load(__file__, "own")
RELEASE = load(__file__, "release")
RENEW = load(__file__, "renew")
RETIRE = load(__file__, "retire")
