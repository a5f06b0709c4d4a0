"""Slow, plain-Python recomputations that kernels are held against."""
