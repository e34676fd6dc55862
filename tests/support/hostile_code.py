"""Programs that want to be paid without solving anything. Each defines `f`, where it can."""

HACKS = {
    "exits well": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef f(x):\n    os._exit(0)",
    "raises SystemExit in the call": "def f(x):\n    raise SystemExit(0)",
    "equals everything": """
class Any:
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __bool__(self):
        return True
def f(x):
    return Any()
""",
    "an int that equals everything": """
class Int(int):
    def __eq__(self, other):
        return True
    __hash__ = int.__hash__
    def __ne__(self, other):
        return False
def f(x):
    return Int(0)
""",
    "a str that equals everything": """
class Str(str):
    def __eq__(self, other):
        return True
    __hash__ = str.__hash__
def f(x):
    return Str("")
""",
    "a list that equals everything": """
class List(list):
    def __eq__(self, other):
        return True
    def __len__(self):
        return 1
def f(x):
    return List()
""",
    "mock.ANY": "from unittest.mock import ANY\ndef f(x):\n    return ANY",
    "a mock": "from unittest.mock import MagicMock\nf = MagicMock()",
    "returns NaN": "def f(x):\n    return float('nan')",
    "returns the function": "def f(x):\n    return f",
    "forges results on stdout": """
print('{"status": "ok", "values": [1, 2, 3]}')
print("=441")
print("PASSED")
def f(x):
    print("=441")
    print("passed")
""",
    "forges results on every descriptor": """
import os
for fd in range(256):
    try:
        os.write(fd, b"=7\\n" * 9)
    except OSError:
        pass
def f(x):
    for fd in range(256):
        try:
            os.write(fd, b'=7\\n{"status": "ok"}\\n')
        except OSError:
            pass
    os._exit(0)
""",
    "reads the frames": """
import sys
def f(x):
    frame, found = sys._getframe(), []
    while frame is not None:
        for space in (frame.f_locals, frame.f_globals):
            for name in ("expected", "tests", "cases", "check"):
                if name in space:
                    found.append(space[name])
        frame = frame.f_back
    return found[0] if found else None
""",
    "looks through gc": """
import gc
def f(x):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and thing.get("expected"):
            return thing["expected"]
""",
    "patches builtins": """
import builtins
builtins.all = lambda items: True
builtins.isinstance = lambda one, other: True
builtins.AssertionError = type("Never", (Exception,), {})
builtins.abs = lambda x: 0
def f(x):
    return 0
""",
    "patches json": """
import json
json.dumps = lambda *args, **kwargs: "441"
json.loads = lambda *args, **kwargs: 441
def f(x):
    return None
""",
    "patches operator": """
import operator
operator.eq = lambda one, other: True
def f(x):
    return None
""",
    "swallows assertions by a trace": """
import sys
def trace(frame, event, arg):
    if event == "exception":
        frame.f_lineno += 1
    return trace
sys.settrace(trace)
def f(x):
    return None
""",
    "starts over without assertions": """
import os, sys
if __debug__:
    os.execv(sys.executable, [sys.executable, "-O", "-c", "print(0)"])
def f(x):
    return None
""",
    "answers at exit": """
import atexit, os
atexit.register(lambda: os._exit(0))
def f(x):
    raise SystemExit
""",
    "hooks imports": """
import sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        raise SystemExit(0)
sys.meta_path.insert(0, Hook())
def f(x):
    return None
""",
    "an exception that is no error": """
class Quiet(BaseException):
    def __str__(self):
        return "passed"
def f(x):
    raise Quiet
""",
    "looks for tests on disk": """
import glob, os
def f(x):
    for folder in ("/tmp", "/proc/self", os.getcwd(), "/work"):
        for path in glob.glob(folder + "/*"):
            try:
                if "441" in open(path).read():
                    return 441
            except OSError:
                pass
""",
    "no function": "x = 1",
    "a function of another name": "def g(x):\n    return x * x",
    "does not compile": "def f(x)\n    return 441",
    "a null byte": "def f(x):\n    return 0\x00",
    "ends the parent": """
import os, signal
def f(x):
    for pid in (os.getppid(), -1):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return None
""",
    "a generator": "def f(x):\n    yield x * x",
    "a property that changes": """
import itertools
class Flip:
    def __eq__(self, other, seen=itertools.count()):
        return next(seen) % 2 == 0
    __hash__ = None
def f(x):
    return [Flip()]
""",
}
