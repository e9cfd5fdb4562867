"""Rule files of our own writing, and generated ones, for round trips and for promtool."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import random
from typing import Any

HAND = r"""
# A file as people keep it: comments, block scalars, anchors, odd spellings.
groups:
  - name: node
    interval: 30s
    limit: 100
    rules:
      - &disk
        alert: DiskFilling
        expr: |
          predict_linear(node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs"}[6h], 4 * 3600) < 0
            and node_filesystem_readonly == 0
        for: 1h30m
        keep_firing_for: 5m
        labels:
          severity: warning
          team: "storage"
        annotations:
          summary: >-
            {{ $labels.instance }}: {{ $labels.mountpoint }} will be full
            in four hours
          description: 'Now at {{ $value | humanize1024 }}B.'
      - alert: 'Clock skew, badly'
        expr: abs(node_timex_offset_seconds) > 0.05
        for: 0s
        labels: {}
        annotations: {}
      - record: instance:node_cpu:rate5m
        expr: sum without (cpu, mode) (rate(node_cpu_seconds_total{mode!="idle"}[5m]))
        labels: { source: "recorded", "tier": 'one' }
      - alert: One
        expr: 1
      - record: two:fixed
        expr: 2.5
  - name: empty
    rules: []
  - name: "quoted: name"
    interval: 1m
    rules:
      - alert: Ünïcode
        expr: 'up{job="a\\b", path=~"/x/.+"} == 0'
        labels: { path: '{{ with $labels.path }}{{ . }}{{ else }}none{{ end }}', n: 5, yes: true }
        annotations: { "runbook": "https://example.org/#{{ $labels.job }}", "note": "a: b # c\n\ttab \"q\"" }
"""
UNKNOWN = """
groups:
  - name: carried
    interval: 1m
    query_offset: 30s
    labels: { region: eu }
    partial_response_strategy: abort
    rules:
      - alert: A
        expr: up == 0
        keep_firing_for: 1m
        x-owner: { name: me, list: [1, 2] }
      - record: a:b
        expr: up
        x-note: later
namespace: tenant-1
"""


def generated(count: int, seed: int = 1) -> dict[str, Any]:
    """A file of so many rules, as a YAML reader would give it."""
    chance = random.Random(seed)
    groups: list[dict[str, Any]] = []
    left = count
    while left:
        rules = []
        for _ in range(min(left, chance.randrange(1, 9))):
            rules.append(rule(chance, left))
            left -= 1
        group: dict[str, Any] = {"name": f"g{len(groups)} {chance.choice(['x', 'ü', '-', '#1'])}", "rules": rules}
        if chance.random() < 0.4:
            group["interval"] = chance.choice(["15s", "1m", "1h", "90s"])
        if chance.random() < 0.2:
            group["limit"] = chance.randrange(1, 50)
        groups.append(group)
    return {"groups": groups}


def rule(chance: random.Random, number: int) -> dict[str, Any]:
    metric = chance.choice(["up", 'http_requests_total{code=~"5.."}', "node_load1", 'x{a="\\"q\\"",b=\'c\'}'])
    expr = chance.choice([
        f"{metric} > {chance.randrange(9)}", f"sum by (job) (rate({metric}[5m])) / 2 > 0.5", f"absent({metric})",
        f"max_over_time(({metric})[10m:1m]) # a comment\n  >= 1", f"  {metric}\n    == 0  ", "vector(1)",
    ])  # fmt: skip
    labels = {chance.choice("abcd"): chance.choice(["x", "", "{{ $labels.job }}", "y z", "true", "007", "é\n"])
              for _ in range(chance.randrange(3))}  # fmt: skip
    if chance.random() < 0.4:
        made: dict[str, Any] = {"record": f"r{number}:sum", "expr": expr}
        labels = {k: v for k, v in labels.items() if "{{" not in v}
    else:
        made = {"alert": chance.choice([f"Alert{number}", f"alert {number}", f"Ä{number}"]), "expr": expr}
        for key in ("for", "keep_firing_for"):
            if chance.random() < 0.4:
                made[key] = chance.choice(["5m", "0s", "1h30m", "2d", "500ms", "1w"])
        if chance.random() < 0.6:
            made["annotations"] = {"summary": chance.choice(["{{ $value }}", "plain", "a\n\nb\n", "{{ humanize $value }}%", " lead"])}  # fmt: skip
    if labels:
        made["labels"] = labels
    return made
