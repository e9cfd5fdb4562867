"""An Alertmanager configuration with all that routing knows."""

from __future__ import annotations

CONFIG = """
global:
  resolve_timeout: 5m
  smtp_smarthost: localhost:25
  smtp_from: a@example.org
route:
  receiver: all
  group_by: [alertname]
  group_wait: 1s
  group_interval: 2s
  repeat_interval: 5s
  routes:
    - matchers: ['team="db"', 'severity=~"page|ticket"']
      receiver: db
      group_by: ['...']
      continue: true
    - match: {team: db}
      match_re: {job: "post.*"}
      receiver: postgres
      routes:
        - matchers: ['env!="prod"']
          receiver: quiet
        - matchers: ['zone!~"a|b"', 'cluster']
          receiver: zones
          group_by: [cluster, zone]
    - matchers: [severity = page, job != ""]
      receiver: pager
      mute_time_intervals: [never]
    - matchers: ['night="1"']
      receiver: nobody
      active_time_intervals: [never]
inhibit_rules:
  - source_matchers: ['alertname="HostDown"']
    target_matchers: ['severity="page"']
    equal: [instance]
  - source_match: {severity: page}
    target_match_re: {severity: page|ticket}
    equal: [alertname]
receivers:
  - name: all
    webhook_configs: [{url: "URL/all"}]
  - name: db
    webhook_configs: [{url: "URL/db", send_resolved: false}, {url: "URL/db2"}]
  - name: postgres
    webhook_configs: [{url: "URL/postgres"}]
  - name: quiet
  - name: zones
    webhook_configs: [{url: "URL/zones", max_alerts: 5}]
  - name: pager
    webhook_configs: [{url: "URL/pager"}]
    email_configs: [{to: x@example.org, x_unknown: 1}]
  - name: nobody
    webhook_configs: [{url: "URL/nobody"}]
time_intervals:
  - name: never
    time_intervals:
      - years: ["1999"]
  - name: office
    time_intervals:
      - times: [{start_time: 09:00, end_time: 17:30}]
        weekdays: [monday:friday, saturday]
        days_of_month: ["1:15", "-3:-1"]
        months: [january:march, "5"]
        years: ["2020:2030", "2040"]
        location: Europe/Paris
templates: ["/etc/alertmanager/*.tmpl"]
""".replace("['zone!~\"a|b\"', 'cluster']", "['zone!~\"a|b\"', 'cluster!=\"\"']")


def config(url: str = "http://127.0.0.1:1", peer: bool = True) -> str:
    """The file; a peer refuses the key that only we carry."""
    text = CONFIG.replace("URL", url)
    return (
        text.replace(", x_unknown: 1", "").replace("    email_configs: [{to: x@example.org}]\n", "") if peer else text
    )
