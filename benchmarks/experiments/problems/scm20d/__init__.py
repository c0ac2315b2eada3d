"""16 regressions on a table, supply chain management: ``python -m benchmarks.experiments.problems.scm20d``.

Prices of 16 products 20 days ahead, from 61 numbers about a simulated market.

References:
  Spyromitros-Xioufis, Tsoumakas, Groves, Vlahavas, `Multi-target regression via input
  space expansion: treating targets as inputs <https://arxiv.org/abs/1211.6581>`_, 2016.
"""
