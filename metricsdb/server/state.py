"""What the server counts about itself, and its text exposition."""

from __future__ import annotations

import os
import platform
import threading
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from metricsdb._native import NativeDatabase, Report
    from metricsdb.alerts.groups import Group
    from metricsdb.alerts.manager import Alerts

__all__ = ["Counts", "Exposition", "expose_alerts", "expose_limits", "expose_memory"]

# Upper bounds of the request durations, in seconds: a remote write takes about 1 ms, a dashboard query up to seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Counts:
    """Counters of one server. Event loop and worker threads both write, so every change takes the lock."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._lock = threading.Lock()
        self.requests: dict[tuple[str, int], int] = defaultdict(int)
        self.durations: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.accepted: dict[str, int] = defaultdict(int)
        self.rejected: dict[tuple[str, str], int] = defaultdict(int)
        self.duplicates = 0
        self.out_of_order = 0
        self.series_created = 0
        self.queries_running = 0
        self.dropped: dict[tuple[str, str], int] = defaultdict(int)
        self.refused: dict[str, int] = defaultdict(int)

    def request(self, handler: str, status: int, seconds: float) -> None:
        with self._lock:
            self.requests[handler, status] += 1
            buckets = self.durations.get(handler)
            if buckets is None:
                buckets = self.durations[handler] = [0] * (len(BUCKETS) + 1)
            buckets[bisect_left(BUCKETS, seconds)] += 1
            self.seconds[handler] += seconds

    def write(self, source: str, report: Report) -> None:
        accepted, duplicates, out_of_order, created, rejected = report
        with self._lock:
            self.accepted[source] += accepted
            self.duplicates += duplicates
            self.out_of_order += out_of_order
            self.series_created += created
            for reason, count, _ in rejected:
                self.rejected[source, reason] += count

    def drop(self, source: str, reason: str, count: int = 1) -> None:
        """Messages that a listener could not take."""
        with self._lock:
            self.dropped[source, reason] += count

    def refuse(self, reason: str) -> None:
        """A request or connection that a limit ended; the reasons are those of docs/security.md."""
        with self._lock:
            self.refused[reason] += 1

    def query(self, change: int) -> None:
        with self._lock:
            self.queries_running += change

    def expose(self, out: Exposition) -> None:
        with self._lock:
            out.family("metricsdb_ingested_samples_total", "counter", "Samples taken, by way in.")
            for source, count in sorted(self.accepted.items()):
                out.sample({"source": source}, count)
            out.family("metricsdb_rejected_samples_total", "counter", "Samples refused, by way in and reason.")
            for (source, reason), count in sorted(self.rejected.items()):
                out.sample({"source": source, "reason": reason}, count)
            out.family("metricsdb_duplicate_samples_total", "counter", "Samples taken for a time that had one.")
            out.sample({}, self.duplicates)
            out.family(
                "metricsdb_out_of_order_samples_total", "counter", "Samples taken that were older than the newest."
            )
            out.sample({}, self.out_of_order)
            out.family("metricsdb_series_created_total", "counter", "Series that a write made known.")
            out.sample({}, self.series_created)
            out.family(
                "metricsdb_listener_dropped_total", "counter", "Messages that were lost, by listener and reason."
            )
            for (source, reason), count in sorted(self.dropped.items()):
                out.sample({"source": source, "reason": reason}, count)
            out.family("metricsdb_queries_running", "gauge", "Queries that run or wait for a thread.")
            out.sample({}, self.queries_running)
            self._expose_requests(out)

    def _expose_requests(self, out: Exposition) -> None:
        out.family("metricsdb_http_refused_total", "counter", "Requests and connections that a limit ended, by reason.")
        for reason, count in sorted(self.refused.items()):
            out.sample({"reason": reason}, count)
        out.family("metricsdb_http_requests_total", "counter", "HTTP requests, by handler and status.")
        for (handler, status), count in sorted(self.requests.items()):
            out.sample({"handler": handler, "code": str(status)}, count)
        out.family("metricsdb_http_request_duration_seconds", "histogram", "Time to answer a request.")
        for handler, buckets in sorted(self.durations.items()):
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
                total += count
                out.sample({"handler": handler, "le": bound}, total, "_bucket")
            out.sample({"handler": handler}, self.seconds[handler], "_sum")
            out.sample({"handler": handler}, total, "_count")


class Exposition:
    """Writes Prometheus' text format, one family after another."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._name = ""

    def family(self, name: str, kind: str, text: str) -> None:
        self._name = name
        self._lines.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")

    def sample(self, labels: dict[str, str], value: float, suffix: str = "") -> None:
        pairs = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        braces = f"{{{pairs}}}" if pairs else ""
        self._lines.append(f"{self._name}{suffix}{braces} {value!r}\n")

    def gauge(self, name: str, text: str, value: float) -> None:
        self.family(name, "gauge", text)
        self.sample({}, value)

    def process(self, started: float) -> None:
        """The usual process_* families, from /proc where there is one."""
        times = os.times()
        self.family("process_cpu_seconds_total", "counter", "User and system CPU time spent in seconds.")
        self.sample({}, times.user + times.system)
        self.gauge("process_start_time_seconds", "Start time since the epoch in seconds.", started)
        status = Path("/proc/self/statm")
        if status.exists():
            size, resident, *_ = (int(n) * os.sysconf("SC_PAGE_SIZE") for n in status.read_text().split())
            self.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", size)
            self.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident)
            self.gauge("process_open_fds", "Number of open file descriptors.", len(os.listdir("/proc/self/fd")))
        self.gauge("process_threads", "Python threads.", threading.active_count())
        self.family("python_info", "gauge", "The Python this runs on.")
        self.sample({"implementation": platform.python_implementation(), "version": platform.python_version()}, 1)

    def text(self) -> str:
        return "".join(self._lines)


def expose_limits(native: NativeDatabase, out: Exposition) -> None:
    """Where the limits on series stand, by rule."""
    status = native.limit_status()
    out.family("metricsdb_limit_series", "gauge", "Live series that a limit counts.")
    for rule, series, *_ in status:
        out.sample({"limit": rule}, series)
    out.family(
        "metricsdb_limit_largest_group_series", "gauge", "Live series of the group that is nearest to its limit."
    )
    for rule, _, _, largest, *_ in status:
        out.sample({"limit": rule}, largest)
    out.family("metricsdb_limit_met_total", "counter", "How often a series that was not there met a limit, by outcome.")
    for rule, _, _, _, *counts in status:
        for outcome, count in zip(("rejected", "label_dropped", "folded"), counts, strict=True):
            out.sample({"limit": rule, "outcome": outcome}, count)
    out.family("metricsdb_churn_new_series", "gauge", "New series in the window of a metric that is held back.")
    for rule, metric, labels, _, count in native.churning():
        out.sample({"limit": rule, "metric": metric, "label": ",".join(labels)}, count)
    sources, targets, samples = native.folded()
    out.gauge("metricsdb_folded_series", "Series that are added up in others now.", sources)
    out.gauge("metricsdb_overflow_series", "Series that others are added up in.", targets)
    out.family("metricsdb_folded_samples_total", "counter", "Samples that were added up in other series.")
    out.sample({}, samples)


def expose_alerts(alerts: Alerts, out: Exposition) -> None:
    """Evaluations by group, what is active, and what became of notifications."""
    groups = alerts.groups()
    families: dict[str, tuple[str, str, Callable[[Group], float]]] = {
        "evaluations_total": ("counter", "Evaluations of a group.", lambda group: group.evaluations),
        "evaluations_missed_total": ("counter", "Evaluations that were due while another ran.", lambda g: g.missed),
        "evaluation_failures_total": ("counter", "Evaluations of a rule that failed.", lambda group: group.failures),
        "evaluation_seconds_total": ("counter", "Time that evaluations took.", lambda group: group.seconds_total),
        "last_evaluation_seconds": ("gauge", "Time that the last evaluation took.", lambda group: group.seconds),
    }
    for name, (kind, text, of) in families.items():
        out.family(f"metricsdb_alerts_{name}", kind, text)
        for group in groups:
            out.sample({"group": group.name}, of(group))
    states = [
        active[2] for group in groups for rule in group.rules for alert in rule.alerts for active in alert.active()
    ]
    out.family("metricsdb_alerts_active", "gauge", "Instances that are not inactive, by state.")
    for state in ("pending", "firing", "clearing", "unknown"):
        out.sample({"state": state}, states.count(state))
    made = alerts.pipeline
    outcomes, muted = ({}, {}) if made is None else made.counts()
    out.family("metricsdb_alerts_notifications_total", "counter", "Messages by channel and outcome.")
    for (channel, outcome), count in sorted(outcomes.items()):
        out.sample({"receiver": channel, "outcome": outcome}, count)
    out.family("metricsdb_alerts_muted_total", "counter", "Alerts that were due and held back, by reason.")
    for reason in ("inhibited", "interval", "silenced"):
        out.sample({"reason": reason}, muted.get(reason, 0))
    out.gauge("metricsdb_alerts_waiting", "Messages on their way.", 0 if made is None else len(made.outbox.waiting()))


# What left memory, and why: `Relief.counts` in the words of /metrics.
_LEFT = {
    "evictions": "Times that the oldest samples left since memory was short.",
    "evicted_samples": "Samples that left since memory was short.",
    "evicted_series": "Series that left with them.",
    "evicted_bytes": "Bytes that left with them.",
    "expired_samples": "Samples that were older than the retention.",
    "expired_series": "Series that left with them.",
    "dropped_answers_bytes": "Bytes of kept answers that were forgotten since memory was short.",
}


# `Cold.counts` in the words of /metrics.
TIERS = {
    "disk_moved_samples": "Samples that went to the disk tier.",
    "disk_moved_bytes": "Bytes that were written for them.",
    "disk_runs": "Runs that moved what was due.",
    "disk_failures": "Runs that ended because the disk was full or away.",
    "cold_moved_samples": "Samples that went to the cold store.",
    "cold_moved_bytes": "Bytes that were uploaded for them.",
    "cold_runs": "Runs that moved what was due.",
    "cold_failures": "Runs that ended because the store was away.",
}


def expose_memory(
    out: Exposition, stats: dict[str, int], steps: dict[str, tuple[int, int]], left: dict[str, int]
) -> None:
    """The memory limit: who holds what of it, and who was refused. Takes what it shows out of `stats`."""
    for name in [name for name in stats if name.startswith("refused_")]:
        del stats[name]
    limit, soft = stats.pop("memory_limit_bytes"), stats.pop("memory_soft_bytes")
    out.gauge("metricsdb_memory_limit_bytes", "Bytes that the database may hold; 0: no limit.", limit)
    out.gauge("metricsdb_memory_soft_limit_bytes", "Bytes from which on room is made.", soft)
    out.family("metricsdb_memory_held_bytes", "gauge", "Bytes that count towards the limit, by holder.")
    for holder in ("stored", "queries", "kept", "arriving"):
        out.sample({"holder": holder}, stats.pop(f"memory_{holder}_bytes"))
    out.family("metricsdb_memory_refused_total", "counter", "Queries, series or samples refused, by step.")
    for step, (_, refused) in steps.items():
        out.sample({"step": step}, refused)
    if limit:
        out.family("metricsdb_memory_refuses_from_bytes", "gauge", "Bytes from which on a step is refused.")
        for step, (threshold, _) in steps.items():
            out.sample({"step": step}, threshold)
    for name, text in _LEFT.items():
        out.family(f"metricsdb_memory_{name}_total", "counter", text)
        out.sample({}, left[name])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
