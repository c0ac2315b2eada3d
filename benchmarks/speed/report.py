"""The results as tables."""

from tabulate import tabulate


def table(summary: dict) -> str:
  """The step of MaxGNR against the copy and TorchJD's MGDA, as Markdown."""
  rows = []
  for entry in [*summary["table"], *summary["bfloat16"], summary["compiled"]]:
    runs = entry["runs"]
    mgda = runs.get("torch mgda", {}).get("median_ms")
    ours = runs["maxgnr"]["median_ms"]
    rows.append(
      [
        entry["tasks"],
        f"{entry['parameters'] / 1e6:g}M",
        entry["leaves"],
        entry["dtype"],
        _ms(runs.get("torch copy")),
        _ms(runs["maxgnr"]),
        f"{runs['maxgnr'].get('to_copy', float('nan')):.2f}",
        _ms(runs["naive"]),
        _ms(runs.get("torch mgda")),
        f"{ours / mgda:.2f}" if mgda else "",
        f"{100 * entry['temporary_share']['maxgnr']:.1f} %",
        f"{100 * entry['temporary_share']['naive']:.0f} %",
        f"{entry['compile_seconds']['maxgnr']:.1f}",
        f"{entry['compile_seconds']['naive']:.1f}",
      ]
    )
  header = ["K", "D", "arrays", "dtype", "copy, ms", "MaxGNR, ms", "to copy"]
  header += ["naive, ms", "TorchJD MGDA, ms", "to MGDA", "temporary", "naive"]
  header += ["compile, s", "naive"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def baselines(summary: dict) -> str:
  """Every baseline beside TorchJD's counterpart, in ms, as Markdown."""
  entries = summary["baselines"]
  names = [name for name in entries[0]["runs"] if not name.startswith("torch ")]
  rows = [
    [
      f"`{name}`",
      *(
        _ms(entry["runs"].get(key))
        for entry in entries
        for key in (name, f"torch {name}")
      ),
    ]
    for name in names
  ]
  header = ["method"]
  for entry in entries:
    size = f"K = {entry['tasks']}, D = {entry['parameters'] / 1e6:g}M"
    header += [f"{size}, ms", "TorchJD, ms"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _ms(run: dict | None) -> str:
  return "" if run is None else f"{run['median_ms']:.3g}"
