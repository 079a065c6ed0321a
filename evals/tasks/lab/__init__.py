"""Benchmark tasks for small models of Python code, built at run time from the standard library."""
