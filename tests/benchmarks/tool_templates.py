"""What becomes of tools in the chat templates that TRL ships, and in the bundled model's?

    python tests/benchmarks/tool_templates.py

Each template is shown a tool, writes ten calls of it, which are read back, and the result of one;
then the table of docs/tool_templates.md is printed. It needs TRL (extra `bench`).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.support.tool_templates import HEAD, row_of, templates


def main() -> None:
    """Print the table and what it counts."""
    rows = {name: row_of(file.read_text(encoding="utf-8")) for name, file in templates().items()}
    print(HEAD)
    for name, row in rows.items():
        print(row.line(name))
    shown = [row for row in rows.values() if row.shown == "the template"]
    refused = sum(bool(row.refused) for row in rows.values())
    print(f"\n{len(rows)} templates: {len(shown)} show tools, {refused} refused")


if __name__ == "__main__":
    main()
