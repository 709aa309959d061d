"""Reports as Markdown: a pipeline and what flows through it, and the levels of all topics."""
