"""Statements with every clause that an export must say something about."""

from __future__ import annotations

from metricsdb.alerts import RouteHint
from metricsdb.alerts.export import Level, Recording, Statement, StatementGroup


def groups() -> list[StatementGroup]:
    disk = Statement(
        "DiskFilling",
        [
            Level("used > 0.8", "warning", "used", ">", "0.8", 600_000, clear_at=0.75, clear_for_ms=600_000),
            Level(
                "used > 0.92", "critical", "used", ">", "0.92", of=(2, 3), clear_at=0.88, route=RouteHint(("pager",))
            ),
        ],
        text="ALERT DiskFilling BY (instance, mountpoint)\n  LEVEL warning WHEN used > 0.8 FOR 10m\n\n  # odd",
        by=["instance", "mountpoint"],
        labels={"team": "storage"},
        annotations={"summary": "{{ $labels.instance }} at {{ $value | humanizePercentage }}"},
        hold_ms=900_000,
        cooldown_ms=60_000,
        flap={"changes": 6},
        no_data="UNKNOWN",
        inhibited_by="HostDown",
        inhibited_on=["instance"],
        cap=200,
        during="office",
        route=RouteHint(
            (
                "chat",
                "mail",
            ),
            ("cluster",),
            1_000,
            2_000,
            14_400_000,
        ),
    )
    slow = [
        Statement("Slow", [Level("p99 > 0.5", clear_when="p99 < 0.35")], text="ALERT Slow …"),
        Statement("SlowBy", [Level("p99 > 0.5", clear_when="p99 < 0.35")], text="ALERT SlowBy …", by=["job"]),
        Statement("Ignoring", [Level("x < 1", "", "x", "<", "1", clear_at=2)], labels={"t": "{{ $value }}"}, text="I"),
        Statement("Levels", [Level("p99 > 0.7", "low"), Level("p99 > 0.8", "high")], text="L", error="FIRE"),
        Statement("Never", [Level("p99 > 0.9", keep_ms=1000)], text="N", not_during="night"),
        Statement("Kept", [Level("y > 1", keep_ms=1000, clear_for_ms=5, clear_of=(1, 2))], text="K", inhibited_by="Z"),
        Statement("Quiet", [Level("z > 1")], text="Q", not_during="night", route=RouteHint(("pager",))),
        Recording("a:b", "sum(x)", {"k": "v"}, "RECORD a:b = sum(x) …", 3_600_000),
        Recording("c:d", "sum(y)", text="RECORD c:d = sum(y)"),
    ]
    return [
        StatementGroup("disks", [disk], 60_000),
        StatementGroup("slow", slow, labels={"region": "eu"}),
        StatementGroup("later", [Statement("Q", [Level("q > 1")], text="Q2")], offset_ms=30_000),
        StatementGroup("empty", []),
    ]
