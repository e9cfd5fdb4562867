"""The cold tier: samples as Parquet in an object store, which others can read, too."""
