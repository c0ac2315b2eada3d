"""Formats the results as Markdown tables."""

from tabulate import tabulate

PROBLEM = ("model", "parameters", "K", "batch")
# The compared numbers of steps from one choice of weights to the next.
EVERY = (2, 4, 8, 16)
TASK_GRADS = {
  "stacked": "written out",
  "vmap": "`vmap`",
  "sequential": "one at a time",
}

WAYS = {
  "losses": "losses only",
  "last_bias": "last bias",
  "sketch": "sketch",
  "gramian": "Gramian",
  "stacked": "stacked, exact",
}
TABLES_OF_WAYS = ("ways", "costs", "task_grads")


def table(summary: dict) -> str:
  """Formats the step of MaxGNR beside the copy and TorchJD's MGDA."""
  rows = []
  for entry in [*summary["table"], *summary["bfloat16"], summary["compiled"]]:
    runs = entry["runs"]
    mgda = runs.get("torch mgda", {}).get("median_ms")
    ours, sketched = runs["maxgnr"]["median_ms"], runs["sketch"]["median_ms"]
    rows.append(
      [
        entry["tasks"],
        f"{entry['parameters'] / 1e6:g}M",
        entry["leaves"],
        entry["dtype"],
        _ms(runs.get("torch copy", runs.get("copy"))),
        _ms(runs["maxgnr"]),
        f"{runs['maxgnr']['to_copy']:.2f}",
        _ms(runs["solver"]),
        _ms(runs["naive"]),
        _ms(runs.get("torch mgda")),
        f"{ours / mgda:.2f}" if mgda else "",
        _ms(runs["sketch"]),
        f"{runs['sketch']['to_maxgnr']:.2f}",
        f"{runs['sketch']['to_copy']:.2f}",
        f"{sketched / mgda:.2f}" if mgda else "",
        f"{100 * entry['temporary_share']['maxgnr']:.1f} %",
        f"{100 * entry['temporary_share']['naive']:.0f} %",
        f"{entry['compile_seconds']['maxgnr']:.1f}",
        f"{entry['compile_seconds']['naive']:.1f}",
      ]
    )
  header = ["K", "D", "arrays", "dtype", "copy, ms", "MaxGNR, ms", "to copy"]
  header += ["solver, ms"]
  header += ["naive, ms", "TorchJD MGDA, ms", "to MGDA"]
  header += ["sketch, ms", "to exact", "to copy", "to MGDA", "temporary", "naive"]
  header += ["compile, s", "naive"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def aggregators(summary: dict) -> str:
  """Formats every aggregator beside TorchJD's counterpart, in ms."""
  entries = summary["aggregators"]
  names = list(entries[0]["temporary_share"])
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


def refresh(summary: dict) -> str:
  """Formats steps that keep their weights for some steps."""
  columns = ["every 1"]
  columns += [f"{way} {every}" for way in ("cond", "two") for every in EVERY]
  rows = [
    [
      *_problem(entry),
      _spread(entry["runs"]["single"]),
      *(f"{entry['runs'][name]['to_single']:.2f}" for name in columns),
    ]
    for entry in summary["steps"]
  ]
  header = [*PROBLEM, "single backward, ms", "n = 1", *(f"n = {n}" for n in EVERY)]
  header += [f"two steps, n = {n}" for n in EVERY]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def ways(summary: dict) -> str:
  """Formats losses and combined gradient by the way that they are taken."""
  rows = [
    [
      *_problem(entry),
      _spread(entry["runs"]["single"]),
      *(f"{entry['runs'][name]['to_single']:.2f}" for name in WAYS),
      f"{entry['runs']['sketch']['to_separate_passes']:.2f}",
    ]
    for entry in summary["steps"]
  ]
  header = [*PROBLEM, "mean loss, ms", *WAYS.values(), "sketch to K + 1 passes"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def in_short(summary: dict) -> str:
  """Formats what the ways cost: the range over models, in units of the mean loss."""
  what = {
    "losses": "methods that look at losses (`uncertainty`, `slaw`, …)",
    "last_bias": "`maxgnr`, measured on the last shared bias",
    "sketch": "`maxgnr(sketch=True)`",
    "stacked": "`maxgnr`, measured exactly",
  }

  def span(name: str, tasks: int) -> str:
    times = [
      entry["runs"][name]["to_single"]
      for entry in summary["steps"]
      if entry["tasks"] == tasks
    ]
    return f"{min(times):.1f} to {max(times):.1f}"

  counts = sorted({entry["tasks"] for entry in summary["steps"]})
  rows = [[text, *(span(name, k) for k in counts)] for name, text in what.items()]
  header = ["losses and combined gradient", *(f"K = {k}" for k in counts)]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def costs(summary: dict) -> str:
  """Formats temporary memory and compile times of the ways."""
  rows = []
  for entry in summary["steps"]:
    runs = entry["runs"]
    gradient = 4 * entry["parameters"]
    layers = 4 * entry["tasks"] * entry["largest_layer"]
    rows.append(
      [
        *_problem(entry),
        *(f"{runs[name]['extra_bytes'] / gradient:.2f}" for name in WAYS),
        f"{runs['gramian']['extra_bytes'] / layers:.2f}",
        *(f"{runs[name]['compile_seconds']:.1f}" for name in ("single", *WAYS)),
      ]
    )
  header = [*PROBLEM, *(f"{label}, memory / D" for label in WAYS.values())]
  header += ["Gramian, memory / (K × largest layer)"]
  header += [f"{label}, compile, s" for label in ("mean loss", *WAYS.values())]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def task_grads(summary: dict) -> str:
  """Formats losses and combined gradient by the way that task gradients are taken."""
  rows = [
    [
      *_problem(entry),
      f"{4e-6 * entry['tasks'] * entry['parameters']:.0f}",
      *(_spread(entry["runs"][name]) for name in TASK_GRADS),
      *(f"{1e-6 * entry['runs'][n]['extra_bytes']:.1f}" for n in TASK_GRADS),
      *(f"{entry['runs'][n]['compile_seconds']:.1f}" for n in TASK_GRADS),
    ]
    for entry in summary["steps"]
  ]
  header = [*PROBLEM, "gradients, MB"]
  labels = TASK_GRADS.values()
  units = ("ms", "MB", "compile, s")
  header += [f"{label}, {unit}" for unit in units for label in labels]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _problem(entry: dict) -> list:
  size = f"{entry['parameters'] / 1e6:.2f}M"
  return [entry["model"], size, entry["tasks"], entry["batch_size"]]


def _spread(run: dict) -> str:
  numbers = (run["median_ms"], *run["quartiles_ms"])
  middle, low, high = (f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in numbers)
  return f"{middle} ({low}–{high})"


def _ms(run: dict | None) -> str:
  return "" if run is None else f"{run['median_ms']:.3g}"
