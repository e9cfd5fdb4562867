"""`python -m benchmarks [NAME ...] [--quick]`: prints each figure beside a peer's of the same run."""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import platform

import polars as pl

NAMES = [
    "ingest", "memory", "index", "codecs", "queries", "guard", "frames", "downsampling", "rollups", "cold", "subscribe",
    "alerts", "rehearsals", "server", "spike", "tiers",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small fleets: does it run, not how fast")
    parser.add_argument("--out", type=pathlib.Path, help="append the rows to this JSON-lines file")
    args = parser.parse_args()
    pl.Config.set_tbl_rows(-1).set_tbl_cols(-1).set_fmt_str_lengths(40).set_tbl_width_chars(240)
    pl.Config.set_tbl_hide_column_data_types(True).set_float_precision(3)
    for name in args.names:
        module = importlib.import_module(f"benchmarks.{name}")
        rows = module.main(args.quick)
        print(f"\n{name}: {module.__doc__}")
        for table in dict.fromkeys(row.get("table") for row in rows):
            part = pl.DataFrame([r for r in rows if r.get("table") == table], infer_schema_length=None)
            print(part if table is None else f"\n{table}\n{part.drop('table')}")
        if args.out:
            with args.out.open("a") as f:
                f.writelines(json.dumps({"benchmark": name, "machine": platform.processor(), **r}) + "\n" for r in rows)


if __name__ == "__main__":
    main()
