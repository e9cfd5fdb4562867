"""What the documentation shows runs: every ```python block of a page, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import metricsdb as mdb
from metricsdb import config, errors, web
from metricsdb.config import Config, Limits, ScrapeJob, StatsdListener
from metricsdb.server import create_app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block may stay unrun where it needs what a test has not; a comment above it says why.
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n\n?)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\((?P<to>[^)\s]+)\)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, namespace = page.read_text(), {"__name__": "__main__"}
    for block in _BLOCK.finditer(text):
        if block["why"]:
            continue
        # Empty lines before it, so that a traceback names the line of the page.
        above = "\n" * text.count("\n", 0, block.start("code"))
        exec(compile(above + block["code"], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in _LINK.finditer(page.read_text()):
        if "://" not in link["to"]:
            target = page.parent / link["to"].partition("#")[0]
            assert target.exists(), f"{link['to']} is not there"


def test_every_public_method_has_its_place():
    page = (ROOT / "docs" / "python-api.md").read_text()
    methods = [n for n, v in vars(mdb.Database).items() if callable(v) and not n.startswith("_")]
    assert [name for name in methods if f"`{name}(" not in page] == []


_CONFIGURED = (Config, Limits, ScrapeJob, config.BasicAuth, config.Authorization, StatsdListener)
# Those of the section `web` have a page of their own.
_WEB = (web.Web, web.Tls, web.Credential)


def test_every_field_of_the_configuration_has_its_place():
    page = (ROOT / "docs" / "operations.md").read_text()
    fields = [
        f
        for kind in (*_CONFIGURED, config.Upkeep, config.Storage, config.Memory, config.Alerts)
        for f in kind.__struct_fields__
    ]
    assert [name for name in fields if f"`{name}`" not in page] == []


def test_every_field_of_the_web_section_has_its_place():
    page = (ROOT / "docs" / "security.md").read_text()
    fields = [f for kind in _WEB for f in kind.__struct_fields__]
    assert [name for name in fields if f"`{name}`" not in page] == []


def test_every_refusal_is_on_the_page_with_a_test_that_is_there():
    page = (ROOT / "docs" / "security.md").read_text()
    sources = "\n".join(p.read_text() for p in sorted((ROOT / "metricsdb" / "server").glob("*.py")))
    by_call = re.findall(r'refused\([\w.]*counts, "(\w+)"|counts\.refuse\("(\w+)"\)', sources)
    by_parser = re.findall(r'\b\d{3}, "\w+", .+, "(\w+)"\)?$', sources, re.MULTILINE)
    named = {one or other for one, other in by_call} | set(by_parser)
    rows = re.findall(r"^\|.*\|$", page, re.MULTILINE)
    assert {"headers", "unauthorized", "answer_time", "pipelined"} <= named
    assert [name for name in named if not any(f"`{name}`" in row for row in rows)] == []
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", page):
        assert f"def {name}(" in tests, name


def test_every_error_has_its_place():
    page = (ROOT / "docs" / "errors.md").read_text()
    assert [name for name in errors.__all__ if f"`{name}`" not in page] == []


def test_every_route_has_its_place():
    page = (ROOT / "docs" / "http-api.md").read_text()
    with mdb.Database() as db:
        paths = [re.sub(r"\{(\w+):\w+\}", r"<\1>", route.path) for route in create_app(db).routes]
    assert [path for path in paths if f"`{path}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_configurations_of_a_page_are_valid(page):
    for block in re.finditer(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        config.parse(block[1].encode(), relative(page))
