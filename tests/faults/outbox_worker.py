"""Fires alerts through router, outbox and webhook until it is killed; prints each notification once it is promised.

python tests/faults/outbox_worker.py DIRECTORY URL CYCLE
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from metricsdb.alerts import PostableAlert
from metricsdb.alerts.amconfig import load
from metricsdb.alerts.notify import Delivery, channels
from metricsdb.alerts.outbox import Outbox
from metricsdb.alerts.routing import Router
from metricsdb.clock import SystemClock

CONFIG = """
route: {{receiver: hook, group_by: [alertname], group_wait: 1ms, group_interval: 1ms, repeat_interval: 1h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{url}"}}]}}]
"""


async def main(directory: str, url: str, cycle: int) -> None:
    config, clock = load(CONFIG.format(url=url)), SystemClock()
    outbox = Outbox(directory, random.Random(cycle))
    router = Router(config)
    if outbox.state is not None:
        router.restore(outbox.state)
    delivery = Delivery(outbox, channels(config)[0], clock)
    print("pid", os.getpid(), flush=True)
    for i in range(1_000_000):
        now = clock.now_ms()
        alert = PostableAlert({"alertname": f"c{cycle}-{i}"}, {}, now - 60_000, now + 3_600_000)
        router.receive([alert], now)
        made = router.tick(now)
        delivery.put(made, router.state())
        for one in made:
            print(one.group_labels["alertname"], one.key, flush=True)
        await delivery.deliver()


# Each line of the input is a cycle, in a child that is there at once: what takes time, the imports, is done.
for line in sys.stdin:
    directory, url, cycle = line.split()
    child = os.fork()
    if child == 0:
        asyncio.run(main(directory, url, int(cycle)))
        os._exit(0)
    os.waitpid(child, 0)
    print("end", flush=True)
