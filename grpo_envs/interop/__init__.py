"""Our environments in other trainers and tools: TRL, verl, verifiers, and a server for OpenEnv.

All of them use `rows`. `openenv`, `served` and `session` belong to the server; each other module is
for one trainer or tool. docs/interop.md and docs/serving.md describe them.
"""
