"""Scenes, the paper's experiments: ``python -m benchmarks.scenes``.

Segmentation, depth and surface normals of one image: on NYUv2 and Cityscapes where they
are at hand, and on rendered scenes (:mod:`benchmarks.scenes.synthetic`).
"""
