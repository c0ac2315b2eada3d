"""Physics-informed networks, whose tasks are an equation and its side conditions.

A small network learns the solution of a differential equation from the equation alone:
``python -m benchmarks.experiments helmholtz --help``, and the same with
``klein-gordon`` and ``burgers``. The losses, the equation's residual and the errors on
the boundary and at the start, differ by orders of magnitude, and none alone has a
single solution, so that there are no single-task models: Δm is relative to equal
weights.

References:
  Wang, Teng, Perdikaris, `Understanding and mitigating gradient pathologies in
  physics-informed neural networks <https://arxiv.org/abs/2001.04536>`_, 2021, which has
  the Helmholtz and the Klein-Gordon equation.
  Raissi, Perdikaris, Karniadakis, `Physics Informed Deep Learning (Part I)
  <https://arxiv.org/abs/1711.10561>`_, 2017, which has the Burgers equation.
"""
