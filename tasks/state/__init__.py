"""Kept state: what the nodes of a pipeline remember, stored with the acknowledgements of the entries it was made of."""
