"""Topics that several inlets share, with the limits that all of them must declare."""

__all__ = ["BARS_KEEP", "MARKET", "MARKET_KEEP"]

MARKET = "market"
# An hour of two clocks and the quotes: 330 MB, 98 % of it quotes (455 KB each with zstd).
MARKET_KEEP = "1h, 500MB"
# Ten days of bars, which have a topic of their own: 150 KB each with zstd.
BARS_KEEP = "10d, 500MB"
