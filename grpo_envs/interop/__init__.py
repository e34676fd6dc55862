"""Our environments in other trainers: each module is one trainer's, or one protocol's."""
