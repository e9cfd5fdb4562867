"""A clear level, FOR and FLAP on files of NAB that took no part in choosing them: a tenth of the pages."""

from __future__ import annotations

import pytest

from benchmarks import alerts


def test_a_tenth_of_the_pages_and_no_window_missed():
    if not (alerts.SHARED / "data" / "nab").is_dir():
        pytest.skip(f"NAB is not here: no folder {alerts.SHARED}")
    *_, whole = alerts.main()
    assert whole["table"].startswith("took no part")
    assert whole["plain meets"] > 20
    assert whole["missed"] == 0
    assert whole["pages"] <= whole["plain pages"] / 10
