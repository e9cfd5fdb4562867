"""Every exception that MetricsDB raises on purpose.

MetricsDBError
├── QueryError                 a query has no answer
│   ├── ParseError             its text is wrong; says line, column and remedy
│   ├── ExecutionError         it is well formed, but this data does not allow an answer
│   ├── QueryTimeout           it ran longer than allowed
│   ├── QueryLimit             it needs more samples, memory, steps or nesting than allowed
│   ├── QueryRejected          too many others run and wait, or memory is short
│   └── QueryCancelled         the caller stopped it
│       └── QueryKilled        somebody else did, by kill
├── WriteError                 a write was refused as a whole (see WriteReport for single samples)
│   ├── CardinalityLimit       a limit on series refuses a new one
│   ├── MemoryLimit            the database is at its memory limit
│   ├── ReadOnlyError          the database is a view of old samples
│   └── NotDurable             it stands in memory, but is not as safe as its mode promises
├── StorageError               a file cannot be read or written
│   ├── DatabaseLocked         another process has the directory
│   ├── FormatVersionError     a file is of another version of the format
│   └── ColdStoreError         the cold store is away, or what it hands out is not what was stored
├── CorruptionError            stored bytes are not what was written
├── ForkedError                the process was forked from the one that has the database
├── TemplateError              a notification template is wrong; says line and column
├── DeliveryError              a notification could not be handed over; says whether another try may help
└── ConfigError                an option or a configuration file is wrong
"""

from __future__ import annotations

__all__ = [
    "CardinalityLimit",
    "ColdStoreError",
    "ConfigError",
    "CorruptionError",
    "DatabaseLocked",
    "DeliveryError",
    "ExecutionError",
    "ForkedError",
    "FormatVersionError",
    "MemoryLimit",
    "MetricsDBError",
    "NotDurable",
    "ParseError",
    "QueryCancelled",
    "QueryError",
    "QueryKilled",
    "QueryLimit",
    "QueryRejected",
    "QueryTimeout",
    "ReadOnlyError",
    "StorageError",
    "TemplateError",
    "WriteError",
]


class MetricsDBError(Exception):
    """The root: catches whatever MetricsDB refuses."""


class QueryError(MetricsDBError):
    """A query has no answer."""


class ParseError(QueryError):
    """A query's text is wrong.

    Attributes:
        line, column: 1-based place of the fault; the column counts characters.
        remedy: what to write instead, or None.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1, remedy: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.remedy = remedy


class ExecutionError(QueryError):
    """A well-formed query cannot be answered on this data."""


class QueryTimeout(QueryError):
    """A query ran longer than its timeout."""


class QueryLimit(QueryError):
    """A query needs more samples, memory, steps or nesting than its limits allow."""


class QueryRejected(QueryError):
    """So many queries of its class run and wait that a query was not begun, or not within its time to wait.

    Or the database is at its memory limit, where queries of lower classes are refused, or ended, first.

    Attributes:
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueryCancelled(QueryError):
    """A query was stopped by its caller (Ctrl-C, a client that went away, a closed server)."""


class QueryKilled(QueryCancelled):
    """A query was stopped by another: ``Database.kill``, or its like over HTTP."""


class WriteError(MetricsDBError):
    """A write was refused as a whole: a body that cannot be read, columns of the wrong type or length."""


class CardinalityLimit(WriteError):
    """A new series would be one too many: names the limit, what it counts, and the series. Others are not affected."""


class MemoryLimit(WriteError):
    """The database is at its memory limit: nothing of the write was taken. Send it again later.

    Attributes:
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ReadOnlyError(WriteError):
    """The database is a read-only view, of recalled samples or of an incident's file."""


class NotDurable(WriteError):
    """The disk fails: the samples stand in memory and are answered, but a crash would lose them. Send them again."""


class StorageError(MetricsDBError):
    """A file of the database's directory cannot be read or written; names it and what the system said."""


class DatabaseLocked(StorageError):
    """Another process has the directory open; names the directory and the process."""


class FormatVersionError(StorageError):
    """A file was written by another version of the format than this program reads; nothing is changed."""


class ColdStoreError(StorageError):
    """The cold store does not answer, refuses, or hands out other bytes than were stored. Never holds credentials.

    Attributes:
        store: which store, as ``s3://bucket/prefix``.
        remedy: what to look at.
    """

    def __init__(self, store: str, message: str, remedy: str) -> None:
        super().__init__(f"cold store {store}: {message}; {remedy}")
        self.store = store
        self.remedy = remedy


class CorruptionError(MetricsDBError):
    """Stored bytes are not what was written."""


class ForkedError(MetricsDBError):
    """This process was forked from the one that has the database, whose threads and locks it lacks.

    Open another database here, or start workers with ``multiprocessing.get_context("spawn")``.
    """


class TemplateError(MetricsDBError):
    """A template cannot be read, or ended while it ran.

    Attributes:
        line, column: 1-based place in the template's text; the column counts characters.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"template, line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column


class DeliveryError(MetricsDBError):
    """A receiver did not take a notification.

    Attributes:
        retry: whether the same request may succeed later.
        retry_after: seconds that the receiver asked for, or None.
    """

    def __init__(self, message: str, retry: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry = retry
        self.retry_after = retry_after


class ConfigError(MetricsDBError):
    """An option or a configuration file is wrong; names file, field, value and remedy."""
