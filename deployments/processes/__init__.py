"""How a flow run gets its process: forked from one that has imported everything already, or started anew."""

__all__: list[str] = []
