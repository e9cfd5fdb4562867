"""Rule files that we write, read by promtool."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import subprocess

import pytest
import yaml

from metricsdb.alerts import export, rules
from metricsdb.alerts.documents import to_yaml
from tests.peers.processes import need
from tests.unit.alerts.corpus import HAND, generated
from tests.unit.alerts.statements import groups

pytestmark = pytest.mark.peers


def without_what_is_newer(plain):
    """Debian's Prometheus of 2023 knows fewer keys, and would refuse them."""
    for group in plain["groups"]:
        for key in ("query_offset", "labels"):
            group.pop(key, None)
        for rule in group.get("rules") or ():
            for key in list(rule):
                if key not in ("alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"):
                    del rule[key]
    return plain


def check(tmp_path, text: str) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(text)
    done = subprocess.run([need("promtool"), "check", "rules", "--lint=none", str(path)], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", range(8))
def test_what_was_read_and_written_is_accepted(tmp_path, seed):
    text = yaml.safe_dump(generated(60, seed))
    check(tmp_path, text)
    check(tmp_path, rules.load(text).to_yaml())


def test_our_own_writing_is_accepted(tmp_path):
    check(tmp_path, HAND)
    check(tmp_path, rules.load(HAND).to_yaml())


def test_exports_are_accepted(tmp_path):
    made = export.portable(groups())
    check(tmp_path, to_yaml(without_what_is_newer(made.rules.plain())))
    check(tmp_path, export.native([g for g in groups() if not g.offset_ms]))
