"""Where something is not installed, the tests that need it are skipped, and say what to install."""

from pathlib import Path

import pytest

from tests.support.browser import find_chromium


def test_without_a_chromium_a_test_in_the_browser_is_skipped_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"there is no Chromium \(Debian: apt-get install chromium\)"):
        find_chromium()
