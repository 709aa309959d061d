"""Safe acknowledgement for streamz graphs: receipts, guards, and repairs of streamz 0.6.6's nodes."""

from tasks.pipeline.guard import trust

__all__ = ["trust"]
