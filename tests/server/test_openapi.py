"""The description of the API against the routes and the documentation; test_api_fuzz.py holds answers against it."""

from __future__ import annotations

import re
from pathlib import Path

import metricsdb as mdb
from metricsdb.server import create_app
from metricsdb.server.gate import Door
from metricsdb.server.openapi import description
from tests.server.serving import OPERATIONS


def routes() -> dict[tuple[str, str], object]:
    return {
        (re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), method): route.endpoint
        for route in create_app(mdb.Database()).routes
        for method in route.methods - {"HEAD"}
    }


def test_every_route_is_described_and_nothing_else():
    assert set(OPERATIONS) == set(routes())


def test_the_scope_of_each_operation_is_what_its_door_asks_for():
    for place, endpoint in routes().items():
        assert OPERATIONS[place]["x-scope"] == (endpoint._right if isinstance(endpoint, Door) else None), place


def test_the_page_names_the_parameters_of_each_endpoint():
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `(/[^`]+)`.*$", page, re.MULTILINE)}
    for (path, _), operation in OPERATIONS.items():
        row = rows[re.sub(r"\{(\w+)\}", r"<\1>", path)]
        for parameter in operation["parameters"]:
            if parameter["in"] == "query":
                assert f"`{parameter['name']}" in row, (path, parameter["name"])


def test_it_is_served(call):
    answer = call("GET", "/api/v1/openapi.json")
    assert answer.json() == description(mdb.__version__)
