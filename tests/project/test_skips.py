"""Skips: tests that need a missing program name it and how to install it."""

from pathlib import Path

import pytest

from tests.support.browser import find_chromium


def test_missing_chromium_skips_browser_tests_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"there is no Chromium \(Debian: apt-get install chromium\)"):
        find_chromium()
