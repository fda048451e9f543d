"""Experiments with a seed: parameters in, a table or JSON out."""
