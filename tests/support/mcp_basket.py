"""An MCP server with state over stdio, in plain Python: it starts in no time.

`python mcp_basket.py FILE` also writes a line into the file when it starts and when it ends. With
`calm` behind the file it has no tools that wait or end it, with `bare` none.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PRICES = {"apple": 3, "pear": 4, "plum": 7}
basket: list[str] = []


def add(item: str) -> str:
    if item not in PRICES:
        raise ValueError(f"no such item: {item}")
    basket.append(item)
    return str(sum(PRICES[each] for each in basket))


def process() -> str:
    return str(os.getpid())


def wait(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def end() -> str:
    print("the basket broke", file=sys.stderr)
    os._exit(3)


TOOLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "add": (add, {"item": {"type": "string", "description": "apple, pear or plum"}}),
    "process": (process, {}),
    "wait": (wait, {"seconds": {"type": "number"}}),
    "end": (end, {}),
}


def listed() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "description": f"The tool {name}.",
            "inputSchema": {"type": "object", "properties": p, "required": [*p]},
        }
        for name, (_, p) in TOOLS.items()
    ]


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        text, wrong = TOOLS[name][0](**arguments), False
    except ValueError as error:
        text, wrong = str(error), True
    return {"content": [{"type": "text", "text": text}], "isError": wrong}


def answer(method: str, given: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "basket", "version": "1"}
        version = given["protocolVersion"]
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": listed()}
    return called(given["name"], given.get("arguments") or {})


def note(text: str) -> None:
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open("a", encoding="utf-8") as file:
            file.write(f"{text} {os.getpid()}\n")


if __name__ == "__main__":
    if "calm" in sys.argv:
        del TOOLS["wait"], TOOLS["end"]
    if "bare" in sys.argv:
        TOOLS.clear()
    note("begins")
    for line in sys.stdin:
        asked = json.loads(line)
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": asked.get("id")}
        if asked.get("method") in ("initialize", "tools/list", "tools/call"):
            reply["result"] = answer(asked["method"], asked.get("params") or {})
        else:
            reply["error"] = {"code": -32601, "message": "no such method"}
        if "id" in asked:
            print(json.dumps(reply), flush=True)
    note("ends")
