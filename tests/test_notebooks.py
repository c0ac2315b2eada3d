"""The notebooks run from the first cell to the last and show their pictures."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import commands
from tests.helpers.marks import thorough_but

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
  assert NOTEBOOKS


@pytest.mark.filterwarnings("default")  # raised by Jupyter's own packages
@pytest.mark.parametrize("name", thorough_but(["quickstart"], NOTEBOOKS))
def test_each_notebook_runs_and_shows_a_picture(name, monkeypatch):
  for variable, value in commands.quick_environment().items():
    monkeypatch.setenv(variable, value)
  notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
  NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert any("image/png" in output.get("data", {}) for output in outputs)
