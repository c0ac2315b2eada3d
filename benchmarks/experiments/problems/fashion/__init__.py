"""Four tasks on two overlaid Fashion-MNIST images.

Name the left article, name the right one, estimate the ink of both, and redraw the
canvas: ``python -m benchmarks.experiments fashion --help``.
"""
