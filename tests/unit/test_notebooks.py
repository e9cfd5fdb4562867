"""The notebooks run, and show what they show now: their code cells in plain Python, without Jupyter.

`python tests/unit/test_notebooks.py` (in an environment with the package) writes the outputs anew.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# A cell with this tag shows figures of this machine or this build.
VARIES = "varies"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(path: Path, notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each code cell, and the outputs that it gives: what it prints, and its last expression as text."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        name = f"{path.name}[{number}]"
        tree = ast.parse("".join(cell["source"]), name)
        last = tree.body.pop().value if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pl.Config(tbl_width_chars=100):
            exec(compile(tree, name, "exec"), namespace)
            shown = None if last is None else eval(compile(ast.Expression(last), name, "eval"), namespace)
            text = "" if shown is None else repr(shown)
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            lines = printed.getvalue().splitlines(keepends=True)
            outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
        if text:
            data = {"text/plain": text.splitlines(keepends=True)}
            outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
        yield cell, outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_what_it_shows_now(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    for cell, outputs in run(path, notebook):
        if VARIES not in cell["metadata"].get("tags", []):
            assert outputs == cell["outputs"], "".join(cell["source"])


def test_there_are_notebooks():
    assert NOTEBOOKS


if __name__ == "__main__":
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text())
        for number, (cell, outputs) in enumerate(run(path, notebook), 1):
            cell["outputs"], cell["execution_count"] = outputs, number
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
