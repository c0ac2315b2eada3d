"""Times a step and compares it with the memory's speed and TorchJD."""
