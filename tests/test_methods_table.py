"""The tables of all methods in docs/methods.md are those that the code writes."""

from benchmarks import methods_table
from benchmarks.evidence.page import filled


def test_the_committed_tables_are_those_of_the_code():
  page = methods_table.PAGE.read_text()
  assert page == filled(page, methods_table.blocks())


def test_sources_are_found_in_docstrings():
  assert methods_table.source("mgda") == (
    "Désidéri, Comptes Rendus Mathématique 2012; Sener and Koltun, NeurIPS 2018"
  )
  assert methods_table.source("slaw") == "Crawshaw and Košecká, 2021"
  assert methods_table.source("equal_weights") == ""


def test_what_is_kept_and_needed():
  assert methods_table.keeps("moco") == "K gradients"
  assert methods_table.keeps("mgda") == ""
  assert methods_table.needs("famo") == "`losses`, [`losses_after_step`]"
