"""What users install: the built distributions, in a place that knows no repository."""

import os
import re
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import maxgnr_jax
from tests.helpers import commands

ROOT = commands.ROOT
PROGRAMS = ROOT / "tests" / "typing"
PACKAGE = {
  path.relative_to(ROOT).as_posix() for path in (ROOT / "maxgnr_jax").rglob("*.py")
} | {"maxgnr_jax/py.typed"}
VERSION = maxgnr_jax.__version__
needs_types_of_arrays = pytest.mark.skipif(
  np.lib.NumpyVersion(np.__version__) < "2.3.0",
  reason="before NumPy 2.3 the types of arrays are only partly known",
)

# Imports all modules, then says from where and with which version.
IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil
import maxgnr_jax
for module in pkgutil.walk_packages(maxgnr_jax.__path__, "maxgnr_jax."):
  importlib.import_module(module.name)
print(maxgnr_jax.__file__, importlib.metadata.version("maxgnr-jax"))
"""


def run(folder, *command, **environment):
  """Runs a command in a folder, without the repository among the places of modules."""
  variables = commands.quick_environment() | environment
  del variables["PYTHONPATH"]
  return commands.execute(command, folder, variables)


def output_of(*arguments, **environment):
  """Runs a command that must succeed, and returns what it prints."""
  result = run(*arguments, **environment)
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """The source distribution, and the wheel that was built from it."""
  folder = tmp_path_factory.mktemp("dist")
  command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
  output_of(folder, *command)
  (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
  return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
  """The Python of an environment with the wheel and, linked, this one's dependencies.

  The repository, which is installed here, stays out of sight: of the folders in a
  `.pth` file Python reads no further `.pth` files.
  """
  folder = tmp_path_factory.mktemp("environment")
  venv.create(folder, symlinks=True)
  python = folder / "bin" / "python"
  pip = (sys.executable, "-m", "pip", "--python", python)
  output_of(folder, *pip, "install", "--no-deps", "--no-index", built[1])
  site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
  here = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
  (site / "dependencies.pth").write_text("\n".join(sorted(here)))
  return python


def readmes_loop():
  (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
  return block


def is_of(python, line):
  """Tells whether a line of `IMPORT_ALL` names the package of an environment."""
  place, version = line.rsplit(" ", 1)
  return Path(place).is_relative_to(python.parent.parent) and version == VERSION


def without(modules):
  """Code after which modules seem not to be installed."""
  return f"import sys\nsys.modules |= dict.fromkeys({sorted(modules)})\n"


def test_tools_find_no_fault_in_the_distributions(built, tmp_path):
  output_of(tmp_path, sys.executable, "-m", "twine", "check", "--strict", *built)
  output_of(tmp_path, sys.executable, "-m", "check_wheel_contents", built[1])


def test_the_wheel_holds_the_package_and_its_licence_only(built):
  assert built[1].name == f"maxgnr_jax-{VERSION}-py3-none-any.whl"
  info = f"maxgnr_jax-{VERSION}.dist-info"
  about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
  licence = f"{info}/licenses/LICENSE"
  with zipfile.ZipFile(built[1]) as wheel:
    assert set(wheel.namelist()) == PACKAGE | about | {licence}
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_source_distribution_holds_what_the_wheel_needs_only(built):
  pages = {"README.md", "CHANGELOG.md", "LICENSE"}
  top = built[0].name.removesuffix(".tar.gz")
  with tarfile.open(built[0]) as sdist:
    names = {member.name for member in sdist if member.isfile()}
  # Hatchling adds `.gitignore`, by which it leaves files out.
  settings = {"pyproject.toml", "PKG-INFO", ".gitignore"}
  assert names == {f"{top}/{name}" for name in PACKAGE | pages | settings}


def test_the_installed_wheel_runs_the_readmes_loop(installed, tmp_path):
  extras = {"flax", "grain", "matplotlib", "orbax", "sklearn", "tensorboardX"}
  code = without(extras) + readmes_loop() + IMPORT_ALL
  loop, place = output_of(tmp_path, installed, "-c", code).splitlines()
  assert re.fullmatch(r"\d\.\d{3} \d+\.\d\d", loop)
  assert is_of(installed, place)
  assert not list(tmp_path.iterdir())


@pytest.mark.thorough  # downloads all dependencies
def test_the_wheel_and_its_dependencies_run_the_readmes_loop(built, tmp_path):
  venv.create(tmp_path / "environment", with_pip=True, symlinks=True)
  python, empty = tmp_path / "environment" / "bin" / "python", tmp_path / "empty"
  empty.mkdir()
  output_of(empty, python, "-m", "pip", "install", "--quiet", built[1])
  listed = output_of(empty, python, "-m", "pip", "list", "--format", "freeze").lower()
  assert f"maxgnr-jax=={VERSION}" in listed
  assert not re.search(r"^(flax|matplotlib)==", listed, re.MULTILINE)
  code = readmes_loop() + IMPORT_ALL
  loop, place = output_of(empty, python, "-c", code).splitlines()
  assert re.fullmatch(r"\d\.\d{3} \d+\.\d\d", loop)
  assert is_of(python, place)


@pytest.mark.thorough
def test_the_typed_program_runs(installed, tmp_path):
  shutil.copy(PROGRAMS / "consumer.py", tmp_path)
  output_of(tmp_path, installed, "consumer.py")


def reported_lines(folder, *command, **environment):
  """Copies the programs to a folder and returns the lines that a checker reports."""
  programs = ["consumer.py", "wrong.py"]
  for program in programs:
    shutil.copy(PROGRAMS / program, folder)
  output = run(folder, *command, *programs, **environment).stdout
  found = re.findall(r"(\w+)\.py:(\d+)(?::\d+ -|:) error", output)
  return {(name, int(number)) for name, number in found}, output


def marked_lines():
  lines = (PROGRAMS / "wrong.py").read_text().splitlines()
  marked = {("wrong", n) for n, line in enumerate(lines, 1) if "# wrong: " in line}
  assert marked
  return marked


@pytest.mark.thorough
def test_mypy_accepts_the_program_and_reports_wrong_uses(installed, tmp_path):
  found, output = reported_lines(
    tmp_path,
    *(sys.executable, "-m", "mypy", "--strict", "--python-executable", installed),
    *("--disable-error-code", "import-untyped"),  # of optax
    *("--config-file", os.devnull, "--cache-dir", ROOT / ".mypy_cache" / "consumer"),
  )
  assert found == marked_lines(), output


@needs_types_of_arrays
@pytest.mark.thorough  # takes ten seconds
def test_pyright_accepts_the_program_and_reports_wrong_uses(installed, tmp_path):
  found, output = reported_lines(
    tmp_path,
    *(sys.executable, "-m", "pyright", "--pythonpath", installed),
    PYRIGHT_PYTHON_IGNORE_WARNINGS="1",  # that there is a newer version
  )
  assert found == marked_lines(), output


@needs_types_of_arrays
@pytest.mark.thorough
def test_pyright_knows_the_type_of_every_public_name(installed, tmp_path):
  path = os.pathsep.join([str(installed.parent), os.environ["PATH"]])
  command = (sys.executable, "-m", "pyright", "--verifytypes", "maxgnr_jax")
  output = output_of(tmp_path, *command, "--ignoreexternal", PATH=path)
  assert f"{installed.parent.parent}" in output
  assert "Type completeness score: 100%" in output


def test_the_version_is_the_same_everywhere():
  changes = (ROOT / "CHANGELOG.md").read_text()
  released = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
  citation = (ROOT / "CITATION.cff").read_text()
  version = re.findall(r"^version: (.*)$", citation, re.MULTILINE)
  date = re.findall(r"^date-released: (.*)$", citation, re.MULTILINE)
  assert released[0] == (VERSION, *date) == (*version, *date)
