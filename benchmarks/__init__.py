"""Benchmarks: each module prints JSON lines, one a figure."""
