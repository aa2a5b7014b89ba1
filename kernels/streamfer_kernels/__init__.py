"""Triton kernels; depends on torch and triton alone."""
