"""`python -m metricsdb` is the `metricsdb` command."""

from metricsdb.cli import main

main()
