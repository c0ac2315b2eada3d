"""Four tasks on two overlaid Fashion-MNIST images: ``python -m benchmarks.experiments.problems.fashion``.

Name the left article, name the right one, estimate the ink of both, and redraw the
canvas.
"""
