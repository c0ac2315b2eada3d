# Needs PyTorch, which the tests' environment lacks; collecting doctests imports files.
collect_ignore = ["generate.py"]
