"""Measures the errors of the solvers and of narrow momenta against float64."""
