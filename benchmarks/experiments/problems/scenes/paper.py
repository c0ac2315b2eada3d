"""The numbers in the paper's tables 2 and 3, which our tables show as well."""

from benchmarks.experiments.tables import Reference

_SEGMENTATION_AND_DEPTH = ("miou", "pixel_accuracy", "depth_abs_err", "depth_rel_err")
_ALL = (*_SEGMENTATION_AND_DEPTH, "normal_mean", "normal_median")

TABLE_2 = Reference(
  "paper, NYUv2",
  {
    name: dict(zip(_ALL, values, strict=True))
    for name, values in {
      "single-task": (26.15, 53.27, 0.6655, 27.89, 30.57, 25.12),
      "equal-weights": (28.32, 55.60, 0.6196, 27.61, 31.80, 26.82),
      "dwa": (28.43, 56.08, 0.6075, 25.08, 31.98, 26.89),
      "uncertainty": (28.06, 54.46, 0.6059, 25.69, 31.49, 26.32),
      "gradnorm": (28.92, 56.26, 0.6057, 24.06, 31.66, 26.49),
      "mgda": (22.38, 49.59, 0.7414, 27.51, 30.50, 23.85),
      "pcgrad": (28.72, 56.17, 0.6131, 27.33, 32.19, 27.00),
      "maxgnr-0.5": (29.76, 57.64, 0.5943, 24.35, 29.89, 24.38),
      "maxgnr-0.9": (29.48, 56.81, 0.5904, 24.91, 30.43, 24.85),
    }.items()
  },
)
TABLE_3 = Reference(
  "paper, Cityscapes",
  {
    name: dict(zip(_SEGMENTATION_AND_DEPTH, values, strict=True))
    for name, values in {
      "single-task": (66.91, 90.03, 0.0153, 35.85),
      "equal-weights": (67.63, 90.09, 0.0163, 57.13),
      "gradnorm": (67.20, 90.76, 0.0169, 57.21),
      "mgda": (66.83, 90.88, 0.0170, 47.14),
      "pcgrad": (67.75, 91.01, 0.0164, 54.95),
      "maxgnr-0.5": (68.01, 91.07, 0.0162, 44.11),
      "maxgnr-0.7": (67.33, 90.76, 0.0160, 42.48),
    }.items()
  },
)
