"""Measures how near the solvers of Eq. 17 come to its optimum.

``python -m benchmarks.accuracy.solvers`` uses the same problems and the same reference
as the tests. Noises are independent or correlated in several ways, with condition
numbers of 10 and 1,000. Gradient norms and noise norms each spread over a number of
decades, that is powers of 10. The reference computes the optimum with SciPy in float64.
"""

import os

# The reference's matrices are so small that threads would only slow it down. NumPy
# reads this variable when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
