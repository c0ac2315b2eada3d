"""Formats the results as Markdown tables."""

from tabulate import tabulate

PROBLEM = ("model", "parameters", "K", "batch")
UPDATE = ("K", "D", "arrays", "dtype")
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
TABLES_OF_UPDATES = ("table", "resources", "aggregators")
TABLES_OF_WAYS = ("ways", "costs", "task_grads")


def table(summary: dict) -> str:
  """Formats the step of MaxGNR beside the copy and TorchJD's MGDA."""
  rows = []
  for entry in _updates(summary):
    runs = entry["runs"]
    ours, mgda = runs["maxgnr"], runs.get("torch mgda")
    rows.append(
      [
        *_update(entry),
        _ms(runs.get("torch copy", runs.get("copy"))),
        _ms(runs["naive"]),
        _ms(mgda),
        _ms(ours),
        f"{ours['to_copy']:.2f}",
        f"{ours['median_ms'] / mgda['median_ms']:.2f}" if mgda else "",
        _ms(runs["sketch"]),
        f"{runs['sketch']['to_copy']:.2f}",
        f"{runs['sketch']['to_maxgnr']:.2f}",
      ]
    )
  header = [*UPDATE, "copy, ms", "naive, ms", "TorchJD MGDA, ms", "MaxGNR, ms"]
  header += ["MaxGNR / copy", "MaxGNR / MGDA", "sketch, ms", "sketch / copy"]
  header += ["sketch / MaxGNR"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def resources(summary: dict) -> str:
  """Formats what else the step of MaxGNR takes, beside the same one written naively."""
  rows = [
    [
      *_update(entry),
      _ms(entry["runs"]["solver"]),
      f"{100 * entry['temporary_share']['maxgnr']:.1f} %",
      f"{100 * entry['temporary_share']['naive']:.0f} %",
      f"{entry['compile_seconds']['maxgnr']:.1f}",
      f"{entry['compile_seconds']['naive']:.1f}",
    ]
    for entry in _updates(summary)
  ]
  header = [*UPDATE, "solver, ms", "temporary memory", "naive: memory"]
  header += ["compilation, s", "naive: compilation, s"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _updates(summary: dict) -> list[dict]:
  return [*summary["table"], *summary["bfloat16"], summary["compiled"]]


def _update(entry: dict) -> list[str]:
  """Returns the cells of the columns in `UPDATE`."""
  size = f"{entry['parameters'] / 1e6:g}M"
  return [str(entry["tasks"]), size, str(entry["leaves"]), entry["dtype"]]


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
  rows = []
  for entry in summary["steps"]:
    for key, way in (("cond", "one, a condition"), ("two", "two, in turn")):
      names = ["every 1", *(f"{key} {every}" for every in EVERY)]
      times = [f"{entry['runs'][name]['to_single']:.2f}" for name in names]
      rows.append([*_problem(entry), _spread(entry["runs"]["single"]), way, *times])
  header = [*PROBLEM, "single backward, ms", "compiled steps", "n = 1"]
  header += [f"n = {n}" for n in EVERY]
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
