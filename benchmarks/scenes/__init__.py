"""Dense prediction on scenes: segmentation, depth and surface normals of one image."""
