"""Scenes: segmentation, depth and surface normals of one image."""
