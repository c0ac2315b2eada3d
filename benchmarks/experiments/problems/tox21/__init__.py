"""12 tests of molecules for toxicity, most molecules in only some of them.

Predict from a molecule's structure whether it is active in each assay of the Tox21
challenge: ``python -m benchmarks.experiments tox21 --help``. Labels are missing, and
few are positive.

References:
  Huang et al., Tox21Challenge to Build Predictive Models of Nuclear Receptor and Stress
  Response Pathways, Frontiers in Environmental Science 3, 2016.
  Wu et al., `MoleculeNet <https://arxiv.org/abs/1703.00564>`_, 2018, which distributes
  the table ``tox21.csv`` and defines the division by scaffolds.
"""
