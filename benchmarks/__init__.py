"""Experiments and measurements; every published number comes from here."""
