"""Four unlike tasks on pairs of handwritten digits, the problem of ``make demo``.

Two overlapping digits share a canvas. A small network with one trunk and four heads
names the left digit, names the right one, estimates the ink of both and redraws the
canvas. The digits come with scikit-learn; nothing is downloaded.
"""
