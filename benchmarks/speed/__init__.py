"""What a step costs, against the memory's speed and TorchJD: ``benchmarks.speed``."""
