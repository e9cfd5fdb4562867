"""Alerts: rule files, templates, routing and delivery; `model` holds the words that all parts share."""

from metricsdb.alerts.model import PostableAlert, RouteHint, fingerprint

__all__ = ["PostableAlert", "RouteHint", "fingerprint"]
