"""Each clause that docs/alerts.md has a row for, seen to do what the row says: a minute an evaluation."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

import metricsdb as mdb
from metricsdb.testing import FakeClock, load

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
NIGHT = range(1, 3)  # minutes

# Clauses of the statement `ALERT A … WHEN x > 5 …`: before it, after it; values of x; what happens: minute, state, `!`
# where somebody is told, `~` where it flaps, and why nobody is.
STORIES = {
    "no clause": ("", "", "1 9 9 1", ["1 firing!", "3 inactive!"]),
    "FOR 5m": ("", "FOR 2m", "9 9 1 9 9 9", ["0 pending", "2 inactive", "3 pending", "5 firing!"]),
    "FOR 2 OF 3": ("", "FOR 2 OF 3", "9 1 9 1", ["0 pending", "2 firing!", "3 inactive!"]),
    "CLEAR WHEN expr": ("", "CLEAR WHEN y > 0", "9 1 1 1", ["0 firing!", "2 inactive!"]),
    "CLEAR AT 0.6": ("", "CLEAR AT 3", "9 4 3 9", ["0 firing!", "2 inactive!", "3 firing!"]),
    "FOR": ("", "CLEAR AT 3 FOR 1m", "9 3 9 3 3", ["0 firing!", "1 clearing", "2 firing", "3 clearing", "4 inactive!"]),
    "KEEP FIRING FOR 10m": ("", "KEEP FIRING FOR 2m", "9 1 1 9 1 1 1", ["0 firing!", "1 clearing", "3 firing", "4 clearing", "6 inactive!"]),
    "HOLD 15m": ("HOLD 3m", "", "9 1 1 1", ["0 firing!", "1 clearing", "3 inactive!"]),
    "COOLDOWN 30m": ("COOLDOWN 3m", "", "9 1 9 9 9", ["0 firing!", "1 inactive!", "4 firing!"]),
    "FLAP 6 CHANGES IN 1h [UNTIL 30m QUIET] [THEN HOLD\\|MUTE]": (
        "FLAP 1 CHANGES IN 1h UNTIL 2m QUIET THEN HOLD", "", "9 1 9 1 1 1", ["0 firing!", "1 inactive!~", "2 firing!~", "3 clearing~", "5 inactive!~"],
    ),
    "THEN MUTE": ("FLAP 1 CHANGES IN 1h UNTIL 1h QUIET THEN MUTE", "", "9 1 9", ["0 firing!", "1 inactive!~", "2 firing~ (flap)"]),
    "ON NODATA CLEAR\\|KEEP\\|UNKNOWN\\|FIRE [AFTER 5m]": ("ON NODATA KEEP", "", "9 stale stale 1", ["0 firing!", "3 inactive!"]),
    "NODATA CLEAR": ("ON NODATA CLEAR AFTER 1m", "", "9 stale stale", ["0 firing!", "2 inactive!"]),
    "NODATA UNKNOWN": ("ON NODATA UNKNOWN", "", "9 stale 9", ["0 firing!", "1 unknown", "2 firing"]),
    "NODATA FIRE": ("ON NODATA FIRE", "FOR 1m", "9 stale stale", ["0 pending", "1 firing!"]),
    "ON ERROR KEEP\\|UNKNOWN\\|FIRE": ("ON ERROR KEEP", "", "9 error 1", ["0 firing!", "2 inactive!"]),
    "ERROR UNKNOWN": ("ON ERROR UNKNOWN", "", "9 error 9", ["0 firing!", "1 unknown", "2 firing"]),
    "ERROR FIRE": ("ON ERROR FIRE", "FOR 1m", "9 error 1", ["0 pending", "1 firing!", "2 inactive!"]),
    "INHIBITED BY name [ON (labels)]": ("INHIBITED BY Y ON (i)", "", "1 1 9 9", ["2 firing (inhibited by Y)", "3 firing!"]),
    "[NOT] DURING interval": ("NOT DURING night", "", "1 9 9 9", ["1 firing (during night)", "3 firing!"]),
    "DURING": ("DURING night", "", "9 9 1", ["0 firing (not during night)", "1 firing!", "2 inactive!"]),
    "CAP 200 INSTANCES": ("CAP 1 INSTANCES", "", "9 9 1", ["0 firing!", "2 inactive!"]),
    "LABELS {…}": ("LABELS {team=\"t\"}", "", "9", ["0 firing!"]),
    "ANNOTATIONS {…}": ("ANNOTATIONS {s=\"at {{ $value }}\"}", "", "9", ["0 firing!"]),
    "ROUTE TO \"receiver\", … [GROUP BY (…)] [WAIT …] [INTERVAL …] [REPEAT …]": (
        'ROUTE TO "a", "b" GROUP BY (i) WAIT 1s INTERVAL 2s REPEAT 3s', "", "9", ["0 firing!"],
    ),
}  # fmt: skip


def told(before: str, after: str, values: str) -> tuple[list[str], list]:
    """The transitions of alert A, and what was delivered of it."""
    clock, minutes = FakeClock(0), values.split()
    with mdb.Database(clock=clock) as db:
        # `error`: two series at once where the expression has room for one.
        own = " ".join("9" if value == "error" else value for value in minutes)
        twice = " ".join("9" if value == "error" else "stale" for value in minutes)
        load(db, "1m", f'x{{i="a"}} {own}\nx{{i="a",j="b"}} {twice}\ny{{i="a"}} 0 0 1 0 0 0 0 0 0')
        delivered = []
        db.alerts.deliver = lambda alerts, _now: delivered.extend(alerts)
        db.alerts.intervals["night"] = lambda at_ms: at_ms // 60_000 in NIGHT
        # Squares, since only a product of vectors can fail.
        after = after.replace("CLEAR AT 3", "CLEAR AT 9")
        db.alerts.install(f"ALERT Y WHEN y > 0; ALERT A {before} WHEN sum by (i) (x * on (i) x) > 25 {after}")
        for _ in minutes:
            db.alerts.tick(clock.now_ms())
            clock.move(60)
        rows = db.alerts.history().filter(pl.col("alert") == "A").iter_rows(named=True)
        shown = []
        for row in rows:
            flags = ("!" if row["notified"] else "") + ("~" if row["flapping"] else "")
            why = f" ({row['muted']})" if row["muted"] else ""
            shown.append(f"{round(row['timestamp'].timestamp() / 60)} {row['to']}{flags}{why}")
        return shown, [one for one in delivered if one[0].labels["alertname"] == "A"]


@pytest.mark.parametrize("clause", STORIES)
def test_a_clause_does_what_its_row_says(clause):
    before, after, values, wanted = STORIES[clause]
    shown, delivered = told(before, after, values)
    assert shown == wanted
    if before.startswith("LABELS"):
        assert delivered[0][0].labels == {"alertname": "A", "i": "a", "team": "t"}
    if before.startswith("ANNOTATIONS"):
        assert delivered[0][0].annotations == {"s": "at 81"}
    if before.startswith("ROUTE"):
        hint = delivered[0][1]
        assert (hint.receivers, hint.group_by) == (("a", "b"), ("i",))
        assert (hint.wait_ms, hint.interval_ms, hint.repeat_ms) == (1000, 2000, 3000)


def test_every_row_of_the_page_has_a_story():
    table = PAGE.read_text().split("| clause | default | |")[1].split("\n\n")[0]
    rows = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    clauses = [clause for row in rows for clause in re.findall(r"`([^`]+)`", row)]
    assert len(clauses) > 12
    assert [clause for clause in clauses if clause not in STORIES and clause != "AT"] == []
