"""YAML as Go's programs read it: `yes`, `17:00` and `2026-01-01` are text there, and stay text when written."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

from metricsdb.errors import ConfigError

__all__ = ["read_yaml", "to_yaml"]


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's plain scalars."""


# A number that isn't written as we would write it stays text: where Go wants text, it takes the digits as they stand.
_TAGS = {
    "bool": (r"true|false", "tf"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "int": (r"-?(?:0|[1-9][0-9]{0,17})", "-0123456789"),
    "float": (r"-?(?:0|[1-9][0-9]{0,7})\.(?:0|[0-9]{0,6}[1-9])", "-0123456789"),
    "merge": (r"<<", "<"),
}
_Loader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _TAGS.items():
    _firsts = [*_first, ""] if _kind == "null" else list(_first)
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _firsts)


def read_yaml(text: str, name: str) -> Any:
    """The document as plain values. Raises ``ConfigError``, which names the file and what YAML says."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: not YAML: {error}") from None
    finally:
        loader.dispose()


def to_yaml(value: Any) -> str:
    """Plain values as YAML, keys in their order."""
    return msgspec.yaml.encode(value).decode()
