"""Benchmarks of otlabel beside other libraries and the loops that people copy: `python -m benchmarks --help`."""
