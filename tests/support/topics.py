"""Names of topics that are hard on keys, globs, patterns, folders, markup and shells."""

from hypothesis import strategies as st

from tasks.errors import SettingsError
from tasks.reservoir.topic_names import check_topic

__all__ = ["MADE_OF", "topic_names"]

MADE_OF = [
    "a", "b", "A", "1", "1-0", ":", ":", "::", "dead", "retry", ":dead:", ":retry:", ":dead:g", "{1}", ":{1}", "{user}", "sluice:", "open",
    "*", "?", "[ab]", "[0-9]*", "\\", "^", "-", "--", " ", "/", "..", "%2F", "%20", "=", "+", "!", "~", "$(", "`", "'", '"', "|", "&", ";", "#",
    "<b>", "](", "[red]", "www.", "@", "_", "é", "e\N{COMBINING ACUTE ACCENT}", "行情", "\N{GRINNING FACE}", "a" * 60, "行" * 30,
]  # fmt: skip
"""What keys are made of, so that two names meet wherever they can; and what patterns, folders, markup and shells give a meaning to."""


def _can_be(name: str) -> bool:
    try:
        check_topic(name)
    except SettingsError:
        return False
    return True


pieces = st.lists(st.sampled_from(MADE_OF), min_size=1, max_size=6).map("".join)
topic_names = (pieces | st.text(min_size=1, max_size=20)).filter(_can_be)
"""Any names that topics can have."""
