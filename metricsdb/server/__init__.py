"""MetricsDB over HTTP."""

from metricsdb.server.app import create_app

__all__ = ["create_app"]
