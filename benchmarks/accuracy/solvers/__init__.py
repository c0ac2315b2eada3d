"""Measures how near the solvers of Eq. 17 come to its optimum.

``python -m benchmarks.accuracy.solvers`` takes the problems and the reference that the
tests take: noises that are independent or correlated in several ways, with condition
numbers of 10 and 1,000; the optimum is SciPy's, in float64. Gradient norms and noise
norms each spread over a number of decades, that is powers of 10.
"""

import os

# The reference's matrices are small, and threads would wait for each other. Read when
# NumPy is imported first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
