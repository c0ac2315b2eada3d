"""16 regressions on a table about supply chain management.

Predict the prices of 16 products 20 days ahead from 61 numbers about a simulated
market: ``python -m benchmarks.experiments scm20d --help``.

References:
  Spyromitros-Xioufis, Tsoumakas, Groves, Vlahavas, `Multi-target regression via input
  space expansion: treating targets as inputs <https://arxiv.org/abs/1211.6581>`_, 2016.
"""
