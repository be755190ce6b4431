"""The differential fuzzer: random Python programs, run by eager PyTorch and compiled, must do the same.

`python -m tests.fuzz --programs 20000 --seed 0` runs it; tests/python/soundness/ runs a fixed budget of it. A program
is a module's source and steps (program.py): each step changes the module's world and calls its function `f`. Everything
that can be seen is compared after each step (observe.py). generate.py makes programs from seeds, shrink.py makes
small ones of those that fail.
"""
