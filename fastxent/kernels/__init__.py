"""Numba kernels on one row, one tile or one slice of rows. Import what you need from its module."""
