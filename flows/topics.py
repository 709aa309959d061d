"""Topics that several inlets share, which have to agree on what a topic keeps."""

__all__ = ["MARKET", "MARKET_KEEP"]

MARKET = "market"
# Half an hour of two clocks and the quotes: 160 MB, 95 % of it quotes (455 KB each with zstd).
MARKET_KEEP = 4_000
