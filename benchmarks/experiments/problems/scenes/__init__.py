"""Scenes, the paper's experiments: ``python -m benchmarks.experiments scenes --help``.

Segmentation, depth and surface normals of one image: on NYUv2 and Cityscapes where they
are at hand, and on rendered scenes
(:mod:`benchmarks.experiments.problems.scenes.synthetic`).
"""
