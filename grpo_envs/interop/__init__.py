"""Our environments in other trainers: TRL, verl, verifiers. docs/interop.md is the page about it.

`rows` is what all of them share; each other module is one trainer's.
"""
