"""The process and its machine: files, launchers, memory, the other processes, the terminal."""
