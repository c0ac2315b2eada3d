"""The runs by which methods are compared: their settings, and the pages they fill.

``make evidence`` sweeps every problem that has a file of settings here and writes its
results to ``benchmarks/results``.
"""
