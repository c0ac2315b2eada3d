"""Four unlike tasks on pairs of handwritten digits: ``python -m benchmarks.experiments.problems.digits``.

Two overlapping digits share a canvas. A small network with one trunk and four heads
names the left digit, names the right one, estimates the ink of both and redraws the
canvas. Everything is trained from the same images with the same budget: one network
per task, equal weights, and MaxGNR.
"""
