"""A physics-informed network, whose tasks are an equation and its boundary values.

A small network learns the solution of the Helmholtz equation from the equation alone:
``python -m benchmarks.experiments helmholtz --help``. Its two losses, the equation's
residual and the error on the boundary, differ by orders of magnitude, and neither alone
has a single solution, so that there are no single-task models: Δm is relative to equal
weights.

References:
  Wang, Teng, Perdikaris, `Understanding and mitigating gradient pathologies in
  physics-informed neural networks <https://arxiv.org/abs/2001.04536>`_, 2021, which has
  this equation.
"""
