"""Our environments in other trainers: TRL, verl, verifiers, and a server for OpenEnv's.

`rows` is what all of them share; each other module is one trainer's, `openenv` and `served` are
the server's. docs/interop.md and docs/serving.md are the pages about them.
"""
