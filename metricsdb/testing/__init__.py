"""For tests, ours and yours: a clock that stands still, Prometheus' series notation, and metric streams.

`metricsdb.testing.strategies` needs hypothesis (`pip install metricsdb[test]`) and is imported on its own.
"""

from metricsdb.testing.clock import FakeClock
from metricsdb.testing.notation import Series, load, parse_labels, parse_series, parse_values

__all__ = ["FakeClock", "Series", "load", "parse_labels", "parse_series", "parse_values"]
