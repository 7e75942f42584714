"""Benchmarks: each ``bench_*`` module prints rows, see `benchmarks.rows`."""
