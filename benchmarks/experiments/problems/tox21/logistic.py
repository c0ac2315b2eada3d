"""Logistic regression of each Tox21 task alone, to compare the networks with.

``python -m benchmarks.experiments.problems.tox21.logistic --data tox21.npz --out
out/tox21`` writes ``logistic.json`` into the folder of a sweep, whose ``report`` then
shows it as a row. The strength of the penalty is chosen on the validation split.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.experiments.problems.tox21.data import Molecules, load
from benchmarks.experiments.problems.tox21.problem import LOGISTIC, divided, roc_auc

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # C, the inverse of the penalty


def main(argv: Sequence[str] | None = None) -> None:
  """Fits all tasks and writes the result."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--data", type=Path, required=True, help="the .npz file")
  parser.add_argument("--out", type=Path, required=True, help="the folder of a sweep")
  options = parser.parse_args(argv)
  molecules = load(options.data)
  tasks = {name: fit(molecules, name) for name in sorted(molecules.names)}
  mean = float(np.mean([of_task["test"] for of_task in tasks.values()]))
  options.out.mkdir(parents=True, exist_ok=True)
  text = json.dumps({"tasks": tasks, "mean": mean}, indent=1) + "\n"
  (options.out / LOGISTIC).write_text(text)
  print(f"mean ROC-AUC on the test split: {mean:.1f} %")


def fit(molecules: Molecules, name: str) -> dict[str, Any]:
  """Fits one task; returns the chosen ``C`` and ROC-AUC % by split."""
  parts = divided(molecules, hold_out=True)
  column = molecules.names.index(name)
  label = {split: part["label"][:, column] for split, part in parts.items()}
  known = label["train"] >= 0

  def scores(strength: float) -> dict[str, float]:
    model = LogisticRegression(C=strength, solver="liblinear")
    model.fit(parts["train"]["bits"][known], label["train"][known])
    return {
      split: roc_auc(model.decision_function(parts[split]["bits"]), label[split])
      for split in ("validation", "test")
    }

  found = {strength: scores(strength) for strength in STRENGTHS}
  best = max(found, key=lambda strength: found[strength]["validation"])
  return {"C": best, **found[best]}


if __name__ == "__main__":
  main()
