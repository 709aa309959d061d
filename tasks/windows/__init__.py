"""Windows of event time without streamz: where they begin and end, when they close, and what they aggregate."""
