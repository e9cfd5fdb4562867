"""Random stable queries: a real Prometheus and this database, over the same samples, answer alike.

`METRICSDB_PEER_QUERIES=20000` asks more of them.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

import metricsdb as mdb
from tests.peers.processes import free_port, need, running
from tests.server.remote_write import body
from tests.twins import promql as twin
from tests.twins import windows
from tests.twins.answers import STALE, Answer, Steps, answer, difference, filled
from tests.twins.numbers import AGGREGATES, Open, Refused
from tests.twins.queries import Dialect, Queries
from tests.twins.stores import CLASSIC, NUMBERS, store

pytestmark = pytest.mark.peers

STORES = 20
QUERIES = int(os.environ.get("METRICSDB_PEER_QUERIES", "3000"))
# Samples stand 1 to 121 ms after a second and windows begin 250 or 500 after it: Prometheus 2.42 still counts
# a sample on the left edge of a window.
PINS = (250, 300_250, 420_500)
STARTS = (60_250, 180_250, 301_250, 420_250)


def dialect(number: int) -> Dialect:
    """Each store has metrics of its own."""
    return Dialect(tuple(f"{name}_{number}" for name in NUMBERS), f"{CLASSIC}_{number}", stable=True, pins=PINS)


def stores() -> list[twin.Data]:
    found = [store(Random(n), dialect(n).stored) for n in range(STORES)]
    return [{labels: [(t + 1, v) for t, v in column] for labels, column in data.items()} for data in found]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it holds the samples of all stores."""
    program, folder, port = need("prometheus"), tmp_path_factory.mktemp("random"), free_port()
    (folder / "prometheus.yml").write_text("global: {}\n")
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
        "--storage.tsdb.retention.time=100y",
    ]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/-/ready", Path(folder) / "prometheus.log"):
        write(url)
        yield url


def write(url: str) -> None:
    stale = float(STALE.view("float64"))
    for data in stores():
        series = [(dict(ls), [(t, stale if v is None else v) for t, v in column]) for ls, column in data.items()]
        sent = httpx.post(f"{url}/api/v1/write", content=body(series))
        assert sent.status_code == 204, sent.text


def theirs(client: httpx.Client, query: str, steps: Steps) -> Answer | str:
    """Prometheus' answer, or its words of refusal."""
    start, end, step = (n / 1000 for n in steps)
    parameters = {"query": query, "start": start, "end": end, "step": step}
    found = client.get("/api/v1/query_range", params=parameters).json()
    if found["status"] != "success":
        return str(found["error"])
    return {
        tuple(sorted(row["metric"].items())): [(round(t * 1000), float(v)) for t, v in row["values"]]
        for row in found["data"]["result"]
    }


def ours(db: mdb.Database, query: str, steps: Steps) -> Answer | str:
    try:
        return answer(db, query, steps)[0]
    except mdb.QueryError as error:
        return str(error)


def lead_of_2(gap: float, interval: float, from_zero: float) -> float:
    """`lead` as it was until 3.0."""
    gap = min(gap, from_zero)
    return gap if gap < interval * 1.1 else interval / 2


def deviation_of_2(deviation: Callable[[list[float]], float]) -> Callable[[list[float]], float]:
    """Of one number 2.42 says 0, also where it is infinite or none."""
    return lambda values: deviation(values) if len(values) > 1 else 0.0


def known(query: twin.Node, data: twin.Data, steps: Steps, a: Answer | str, b: Answer | str) -> str | None:
    """Which change since 2.42 explains that the answers differ."""
    compares = re.search(r"[<>=!]=?(?: bool)? (?:on|ignoring) ", query.text())
    if isinstance(a, str) or isinstance(b, str):
        # What a filter leaves no longer decides whether a match is unique (prometheus#17668).
        return "filtered duplicates" if compares and "many-to-one" in str(a) and not isinstance(b, str) else None
    reasons = {"rate|increase": "how far a counter is extrapolated", "stddev|stdvar": "deviation of one number"}
    reasons = {words: reason for words, reason in reasons.items() if re.search(words, query.text())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "lead", lead_of_2)
        for name in ("stddev", "stdvar"):
            patch.setitem(AGGREGATES, name, deviation_of_2(AGGREGATES[name]))
        explained = bool(reasons) and difference(b, twin.evaluate(query, data, *steps)) is None
    return " or ".join(reasons.values()) if explained else None


def compare(client: httpx.Client, db: mdb.Database, data: twin.Data, query: twin.Node, steps: Steps) -> str:
    """What became of the query."""
    try:
        twin.evaluate(query, data, *steps)
    except Open:
        return "open"
    except Refused:
        pass
    a, b = ours(db, query.text(), steps), theirs(client, query.text(), steps)
    if isinstance(a, str) or isinstance(b, str):
        found = None if isinstance(a, str) and isinstance(b, str) else f"here: {a}\nPrometheus: {b}"
    else:
        found = difference(a, b)
    if found is None:
        return "refused" if isinstance(a, str) else "answered" if a else "empty"
    reason = known(query, data, steps, a, b)
    assert reason, f"{query.text()}\nfrom, to, step: {steps}\n(evaluator: here; twin: Prometheus) {found}"
    return f"known difference: {reason}"


def test_random_queries_answer_as_prometheus_does(prometheus: str) -> None:
    seen: Counter[str] = Counter()
    with httpx.Client(base_url=prometheus, timeout=60) as client:
        for number, data in enumerate(stores()):
            db, rng = filled(data), Random(1000 + number)
            for _ in range(math.ceil(QUERIES / STORES)):
                query = Queries(rng, dialect(number)).query()
                start, step = rng.choice(STARTS), rng.choice([7_000, 60_000])
                steps = (start, start + rng.choice([0, 0, 1, 2, 5]) * step, step)
                seen[compare(client, db, data, query, steps)] += 1
    print(dict(seen))
    assert seen["answered"] > QUERIES / 2
    assert sum(n for what, n in seen.items() if what.startswith("known")) < QUERIES / 20
