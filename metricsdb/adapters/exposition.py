"""Which exposition format a body is in, by its content type."""

from __future__ import annotations

from typing import Literal

__all__ = ["ExpositionFormat", "format_of"]

ExpositionFormat = Literal["openmetrics", "prometheus", "protobuf"]

_FORMATS: dict[str, ExpositionFormat] = {
    "application/openmetrics-text": "openmetrics",
    "application/vnd.google.protobuf": "protobuf",
}


def format_of(content_type: str) -> ExpositionFormat:
    """The format of a ``Content-Type``; Prometheus text for anything that is not known."""
    return _FORMATS.get(content_type.partition(";")[0].strip().lower(), "prometheus")
