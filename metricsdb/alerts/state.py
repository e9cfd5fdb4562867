"""The file that keeps what is installed and what it holds, so that alerts go on where a killed process left them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from metricsdb.alerts.groups import Group, groups_of, keys
from metricsdb.errors import CorruptionError, FormatVersionError, StorageError
from metricsdb.files import write_whole

__all__ = ["load", "save"]

VERSION = 1
FILE = "alerts.json"


def _dump(groups: Sequence[Group], acknowledged: dict[str, Any]) -> bytes:
    def rule(key: tuple[str, str, int], found: Any) -> dict[str, Any]:
        states = [base64.b85encode(bytes(alert.state())).decode() for alert in found.alerts]
        return {"key": list(key), "text": found.text, "states": states}

    entries = [
        {
            "name": group.name,
            "every_ms": group.every_ms,
            "offset_ms": group.offset_ms,
            "limit": group.limit,
            "evaluated_ms": group.evaluated_ms,
            "evaluations": group.evaluations,
            "missed": group.missed,
            "rules": [rule(key, found) for key, found in keys(group)],
        }
        for group in groups
    ]
    return msgspec.json.encode({"version": VERSION, "groups": entries, "acknowledged": acknowledged})


def save(directory: Path, groups: Sequence[Group], acknowledged: dict[str, Any], sync: bool) -> None:
    """Writes the file beside, and renames it into place. Raises ``StorageError``."""
    target = directory / FILE
    try:
        write_whole(target, _dump(groups, acknowledged), sync=sync)
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror}; alerts go on, and are saved at the next evaluation") from None


def load(directory: Path) -> tuple[list[Group], dict[str, Any]]:
    """What was saved; nothing without a file. Raises ``CorruptionError``, ``FormatVersionError``, ``StorageError``."""
    target = directory / FILE
    try:
        found = msgspec.json.decode(target.read_bytes())
        version = found["version"]
    except FileNotFoundError:
        return [], {}
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror}; make it readable") from None
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise CorruptionError(f"{target} holds no alerts: {error}; install the statements again") from None
    if version != VERSION:
        raise FormatVersionError(f"{target} has version {version} of the format, and this program reads {VERSION}")
    try:
        return [_group(entry) for entry in found["groups"]], found["acknowledged"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptionError(f"{target} holds no alerts: {error!r}; install the statements again") from None


def _group(entry: dict[str, Any]) -> Group:
    group = Group(entry["name"], entry["every_ms"], entry["offset_ms"], entry.get("limit"))
    group.evaluated_ms, group.evaluations, group.missed = entry["evaluated_ms"], entry["evaluations"], entry["missed"]
    for saved in entry["rules"]:
        rule = groups_of(saved["text"], group.every_ms)[0].rules[0]
        for alert, state in zip(rule.alerts, saved["states"], strict=True):
            alert.restore(base64.b85decode(state))
        group.rules.append(rule)
    return group
