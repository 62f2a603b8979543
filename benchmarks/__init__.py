"""Benchmarks. Each module prints a table and writes JSON; none asserts a time."""
