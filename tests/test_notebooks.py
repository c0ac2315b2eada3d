"""The notebooks run from the first cell to the last and show their pictures."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import commands

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
  assert NOTEBOOKS


@pytest.mark.filterwarnings("default")  # raised by Jupyter's own packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_runs_and_shows_a_picture(path, monkeypatch):
  for name, value in commands.quick_environment().items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(path, as_version=4)
  NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert any("image/png" in output.get("data", {}) for output in outputs)
