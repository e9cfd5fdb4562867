"""MetricsDB: an in-memory time-series database for DevOps metrics that lives inside Python."""

from metricsdb._native import __version__
from metricsdb.database import (
    Database,
    QueryInfo,
    QueryWarning,
    RawSeries,
    Rejected,
    WriteReport,
)
from metricsdb.errors import (
    ConfigError,
    CorruptionError,
    ExecutionError,
    MetricsDBError,
    ParseError,
    QueryCancelled,
    QueryError,
    QueryKilled,
    QueryLimit,
    QueryRejected,
    QueryTimeout,
    WriteError,
)
from metricsdb.histograms import Histogram
from metricsdb.lifecycle.tick import Tick
from metricsdb.precision import PrecisionPolicies

__all__ = [
    "ConfigError",
    "CorruptionError",
    "Database",
    "ExecutionError",
    "Histogram",
    "MetricsDBError",
    "ParseError",
    "PrecisionPolicies",
    "QueryCancelled",
    "QueryError",
    "QueryInfo",
    "QueryKilled",
    "QueryLimit",
    "QueryRejected",
    "QueryTimeout",
    "QueryWarning",
    "RawSeries",
    "Rejected",
    "Tick",
    "WriteError",
    "WriteReport",
    "__version__",
]
