"""MetricsDB: an in-memory time-series database for DevOps metrics that lives inside Python."""

from metricsdb._native import __version__
from metricsdb.charts import plot
from metricsdb.config import Limit
from metricsdb.database import (
    Database,
    RawSeries,
)
from metricsdb.durability import Durability, Recovery
from metricsdb.errors import (
    CardinalityLimit,
    ColdStoreError,
    ConfigError,
    CorruptionError,
    DatabaseLocked,
    DeliveryError,
    ExecutionError,
    ForkedError,
    FormatVersionError,
    MemoryLimit,
    MetricsDBError,
    NotDurable,
    ParseError,
    QueryCancelled,
    QueryError,
    QueryKilled,
    QueryLimit,
    QueryRejected,
    QueryTimeout,
    ReadOnlyError,
    StorageError,
    TemplateError,
    WriteError,
)
from metricsdb.explain import Estimate, Plan
from metricsdb.frames import QueryInfo, QueryWarning
from metricsdb.histograms import Histogram
from metricsdb.lifecycle.tick import Tick
from metricsdb.limits import SeriesLimits
from metricsdb.precision import PrecisionPolicies
from metricsdb.subscribe import Subscription
from metricsdb.writes import Rejected, WriteReport

__all__ = [
    "CardinalityLimit",
    "ColdStoreError",
    "ConfigError",
    "CorruptionError",
    "Database",
    "DatabaseLocked",
    "DeliveryError",
    "Durability",
    "Estimate",
    "ExecutionError",
    "ForkedError",
    "FormatVersionError",
    "Histogram",
    "Limit",
    "MemoryLimit",
    "MetricsDBError",
    "NotDurable",
    "ParseError",
    "Plan",
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
    "ReadOnlyError",
    "Recovery",
    "Rejected",
    "SeriesLimits",
    "StorageError",
    "Subscription",
    "TemplateError",
    "Tick",
    "WriteError",
    "WriteReport",
    "__version__",
    "open_incident",
    "plot",
]

open_incident = Database.open_incident
