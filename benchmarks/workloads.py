"""Deterministic fleets for benchmarks: labels as a frame, values as a [steps, series] matrix.

devops   hosts x 10 CPU metrics, 10 tags beside the name, 10 s: bounded walks, as integers, two decimals or doubles
card     devops with very many hosts and few steps: the cost of a series
svc      services x 2 pods x 4 status codes, Poisson counters, 15 s
node     the packaged extract of a real node_exporter, replayed by many instances, 15 s
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cramjam
import numpy as np
import polars as pl

START_MS = 1_700_006_400_000
SERIES_PER_BODY = 2_000  # what a Prometheus sends at a time
SAMPLE_BYTES = 18  # field and length, value (1 + 8), time (1 + 6 varint bytes: any ms of 2004 to 2109)


@dataclass
class Workload:
    name: str
    labels: pl.DataFrame  # one row a series, one String column a label
    values: np.ndarray  # float64 [steps, series]
    step_ms: int
    phase_ms: np.ndarray | None = None  # per series, added to the step's time
    _heads: list = field(default_factory=list)

    @property
    def steps(self) -> int:
        return self.values.shape[0]

    @property
    def series(self) -> int:
        return self.values.shape[1]

    @property
    def samples(self) -> int:
        return self.values.size

    @property
    def end_ms(self) -> int:
        return START_MS + (self.steps - 1) * self.step_ms + (self.step_ms if self.phase_ms is not None else 0)

    def times(self, step: int) -> np.ndarray:
        at = np.full(self.series, START_MS + step * self.step_ms, dtype=np.int64)
        return at if self.phase_ms is None else at + self.phase_ms

    @cached_property
    def _templates(self) -> list[_Template]:
        names = sorted(self.labels.columns)
        rows = [label_bytes(dict(zip(names, row, strict=True))) for row in self.labels.select(names).rows()]
        return [_Template(rows[i : i + SERIES_PER_BODY]) for i in range(0, len(rows), SERIES_PER_BODY)]

    def bodies(self, steps: range | None = None):
        """Yields (remote-write 1.0 body, samples, index of the body within its step), one sample a series."""
        for step in steps or range(self.steps):
            times, first = self.times(step), 0
            for k, template in enumerate(self._templates):
                part = slice(first, first + template.series)
                yield template.body(self.values[step, part], times[part]), template.series, k
                first += template.series


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def label_bytes(labels: dict[str, str]) -> bytes:
    """The protobuf of sorted labels; an empty one is absent."""
    return b"".join(_field(1, _field(1, n.encode()) + _field(2, v.encode())) for n, v in labels.items() if v)


def series_block(labels: bytes, times: np.ndarray, values: np.ndarray) -> bytes:
    """The protobuf of one series of a body with all of its samples."""
    rows = np.empty((len(times), SAMPLE_BYTES), dtype=np.uint8)
    rows[:, :3], rows[:, 11] = (18, SAMPLE_BYTES - 2, 9), 16
    rows[:, 3:11] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    rows[:, 12:] = _time_bytes(times)
    return _field(1, labels + rows.tobytes())


def _time_bytes(times: np.ndarray) -> np.ndarray:
    groups = (times[:, None] >> np.arange(0, 42, 7)) & 127
    groups[:, :5] |= 128
    return groups


class _Template:
    """The protobuf of a body with room for values and times, which are laid in per step."""

    def __init__(self, rows: list[bytes]) -> None:
        sample = _field(2, b"\x09" + bytes(8) + b"\x10" + bytes(6))
        blocks = [_field(1, labels + sample) for labels in rows]
        ends = np.cumsum([len(b) for b in blocks])
        self.series = len(blocks)
        self.bytes = np.frombuffer(b"".join(blocks), dtype=np.uint8).copy()
        self.value_at = (ends - 15)[:, None] + np.arange(8)
        self.time_at = (ends - 6)[:, None] + np.arange(6)

    def body(self, values: np.ndarray, times: np.ndarray) -> bytes:
        self.bytes[self.value_at] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
        self.bytes[self.time_at] = _time_bytes(times)
        return bytes(cramjam.snappy.compress_raw(self.bytes))


CPU_METRICS = ["user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"]
REGIONS = [
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-south-1",
    "ap-east-1",
    "sa-east-1",
]


def devops(hosts: int = 4_000, steps: int = 361, values: str = "int", seed: int = 1) -> Workload:
    rng = np.random.default_rng(seed)
    region = rng.choice(REGIONS, hosts)
    tags = pl.DataFrame(
        {
            "arch": rng.choice(["x64", "x86"], hosts),
            "datacenter": np.char.add(region, rng.choice(["a", "b", "c"], hosts)),
            "hostname": [f"host_{h}" for h in range(hosts)],
            "os": rng.choice(["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"], hosts),
            "rack": rng.integers(0, 100, hosts).astype(str),
            "region": region,
            "service": rng.integers(0, 20, hosts).astype(str),
            "service_environment": rng.choice(["production", "staging", "test"], hosts),
            "service_version": rng.integers(0, 2, hosts).astype(str),
            "team": rng.choice(["SF", "NYC", "LON", "CHI"], hosts),
        }
    )
    names = pl.DataFrame({"__name__": [f"cpu_usage_{m}" for m in CPU_METRICS]})
    labels = tags.join(names, how="cross")
    state = rng.uniform(0, 100, labels.height)
    matrix = np.empty((steps, labels.height))
    for row in matrix:
        state = np.clip(state + rng.standard_normal(len(state)), 0, 100)
        row[:] = {"int": np.floor, "dec2": lambda x: np.round(x, 2), "float": lambda x: x}[values](state)
    return Workload(f"devops-{values}", labels, matrix, 10_000)


def card(hosts: int = 100_000, steps: int = 3) -> Workload:
    fleet = devops(hosts, steps)
    fleet.name = "card"
    return fleet


def svc(services: int = 12_000, steps: int = 61, seed: int = 1) -> Workload:
    rng = np.random.default_rng(seed)
    kinds = ["checkout", "pay", "search", "cart", "auth", "feed", "media", "mail", "ledger", "geo"]
    rows, rates = [], []
    for i in range(services):
        service = f"{kinds[i % 10]}-{i // 10:04d}"
        team, region = f"team-{rng.integers(60)}", str(rng.choice(REGIONS))
        method, base = ("GET", "POST")[rng.integers(2)], float(np.exp(rng.normal(2, 2)))
        for _ in range(2):
            pod = f"{service}-{rng.integers(1 << 40):010x}"
            for code, share in (("200", 1), ("404", 0.03), ("429", 0.01), ("500", 0.005)):
                rows.append(("http_requests_total", code, method, team, pod, region, service))
                rates.append(base * share)
    columns = ["__name__", "code", "method", "namespace", "pod", "region", "service"]
    growth = rng.poisson(np.array(rates) * 15, (steps, len(rates)))
    counters = growth.cumsum(axis=0) + rng.integers(0, 10_000_000, len(rates))
    return Workload("svc", pl.DataFrame(rows, schema=columns, orient="row"), counters.astype(float), 15_000)


def node(instances: int = 60, steps: int = 240) -> Workload:
    """Each instance replays the capture from its own row on, at its own phase of the scrape interval."""
    from metricsdb.demo import read_capture

    capture, _ = read_capture()
    base, rows = pl.DataFrame(capture.labels, infer_schema_length=None), capture.values
    steps = min(steps, len(rows))
    blocks, labels, phase = [], [], []
    for i in range(instances):
        first = i * 37 % (len(rows) - steps + 1)
        blocks.append(rows[first : first + steps])
        labels.append(
            base.with_columns(pl.lit(f"10.0.{i // 250}.{i % 250}:9100").alias("instance"), job=pl.lit("node"))
        )
        phase.append(np.full(base.height, i * 7919 % 15_000))
    return Workload("node", pl.concat(labels), np.concatenate(blocks, axis=1), 15_000, np.concatenate(phase))
