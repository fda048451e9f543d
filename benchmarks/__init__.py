"""Measurements, each a module: `python -m benchmarks.hop --json`. Figures are ratios from one run."""
