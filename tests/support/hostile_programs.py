"""Programs that try to get out, to do harm or to be paid for nothing, and what becomes of each.

`{folder}`, `{port}`, `{victim}` and `{trainer}` are filled in by the test: a folder with a `secret`
file that anybody may read and write, a port that is listened at, and two processes; `{installed}`
and `{base}` are files of packages that no program needs. A program prints ESCAPED where it got what
it came for.
"""

import platform
from dataclasses import dataclass

OK, ERROR, WALL, CPU, MEMORY, OUTPUT, KILLED = (
    *("ok", "error", "wall", "cpu", "memory", "output", "killed"),
)
ENDS = (OK, ERROR)
"""How most end: by an exception, or by having caught it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One program."""

    name: str
    program: str
    ends: tuple[str, ...] = ENDS


def escape(name: str, act: str, ends: tuple[str, ...] = ENDS) -> Hostile:
    """An act that must fail; if it does not, the program says so."""
    body = "\n".join(f"    {line}" for line in act.strip().splitlines())
    shield = f"import os, sys, ctypes\ntry:\n{body}\nexcept OSError as error:\n    print(error)\n"
    return Hostile(name=name, program=f"{shield}else:\n    print('ESCAPED')\n", ends=ends)


def syscall(name: str, number: int, *arguments: str, ends: tuple[str, ...] = ENDS) -> Hostile:
    """A system call that must fail, made past the C library."""
    passed = "".join(f", {argument}" for argument in arguments)
    act = f"""
import mmap
text = ctypes.create_string_buffer(b'{{folder}}/secret')
space = ctypes.create_string_buffer(4096)
if ctypes.CDLL(None).syscall({number}{passed}) == -1: raise PermissionError
"""
    return escape(name, act, ends)


FILES = [
    escape("write", "open('{folder}/new', 'w').write('x')"),
    escape("append", "open('{folder}/secret', 'a').write('x')"),
    escape("read", "print(open('{folder}/secret').read())"),
    escape("read by raw openat", "print(os.read(os.open('{folder}/secret', os.O_RDONLY), 99))"),
    escape("truncate on open", "os.open('{folder}/secret', os.O_RDONLY | os.O_TRUNC)"),
    escape("truncate", "os.truncate('{folder}/secret', 0)"),
    escape("list", "os.listdir('{folder}')"),
    escape("unlink", "os.unlink('{folder}/secret')"),
    escape("rename", "os.rename('{folder}/secret', '{folder}/new')"),
    escape("mkdir", "os.mkdir('{folder}/new')"),
    escape("symlink", "os.symlink('/etc/passwd', '{folder}/new')"),
    escape("hard link", "os.link('{folder}/secret', '{folder}/new')"),
    escape("mknod", "os.mkfifo('{folder}/new')"),
    escape("chmod", "os.chmod('{folder}/secret', 0)"),
    escape("chown", "os.chown('{folder}/secret', 1, 1)"),
    escape("utime", "os.utime('{folder}/secret', (0, 0))"),
    escape("setxattr", "os.setxattr('{folder}/secret', 'user.x', b'x')"),
    escape("chroot", "os.chroot('{folder}')"),
    escape("passwords", "open('/etc/passwd').read()"),
    escape("home", "os.listdir(os.path.expanduser('~'))"),
    escape("root folder", "os.listdir('/')"),
    escape("temporary file", "import tempfile; tempfile.TemporaryFile()"),
    escape("shared memory file", "open('/dev/shm/grpo-envs-canary', 'w')"),
    escape(
        "O_PATH and back",
        "fd = os.open('{folder}/secret', os.O_PATH)\nopen(f'/proc/self/fd/{{fd}}').read()",
    ),
    escape("chdir and relative", "os.chdir('{folder}')\nopen('secret').read()"),
    escape("installed data sets", "import pytest; print(pytest.__file__)\nopen(pytest.__file__)"),
    escape("installed packages", "open('{installed}').read()"),
    escape("packages of the base interpreter", "open('{base}').read()"),
    escape("reopen stdin", "os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x')"),
    escape("write to stdin's file", "os.write(0, b'x')"),
    escape("dynamic library", "ctypes.CDLL('{folder}/secret')"),
    Hostile(
        name="import hook on a dataset",
        program="import sys\nsys.path.insert(0, '{folder}')\nimport secret\nprint('ESCAPED')",
    ),
]
PROCESSES = [
    escape("fork", "os.fork()"),
    escape("vfork and exec", "import subprocess; subprocess.run(['/bin/true'])"),
    escape("posix_spawn", "os.posix_spawn('/bin/true', ['true'], dict())"),
    escape("exec", "os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])"),
    escape("-O once more", "os.execv(sys.executable, ['python', '-O', '-c', 'print(42)'])"),
    escape("shell", "if os.system('echo ESCAPED'): raise OSError"),
    escape("multiprocessing", "import multiprocessing as m; m.Process(target=print).start()"),
    escape("kill the victim", "os.kill({victim}, 9)"),
    escape("kill the trainer", "os.kill({trainer}, 0)"),
    escape("kill the parent", "os.kill(os.getppid(), 9)"),
    escape("stop the parent", "os.kill(os.getppid(), 19)"),
    escape("kill everything", "os.kill(-1, 9)"),
    escape("kill the group", "os.killpg(0, 9)"),
    escape("kill itself, as if from outside", "os.kill(os.getpid(), 9)"),
    escape(
        "signals by ownership of a descriptor",
        "import fcntl\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {victim})",
    ),
    escape("parent's memory", "open(f'/proc/{{os.getppid()}}/mem', 'rb')"),
    escape("trainer's memory", "open('/proc/{trainer}/mem', 'rb')"),
    escape("trainer's environment", "print(open('/proc/{trainer}/environ').read())"),
    escape("own environment", "print(open('/proc/self/environ').read())"),
    escape("trainer's command line", "open('/proc/{trainer}/cmdline').read()"),
    escape("ptrace", "if ctypes.CDLL(None).ptrace(16, {victim}, 0, 0): raise OSError"),
    escape("set-user-id", "os.setuid(0)\nos.setuid(1)"),
    escape("nice", "os.nice(-5)"),
    escape("scheduler", "os.sched_setaffinity(0, [0])"),
    escape("limits up", "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))"),
    escape(
        "limits of others",
        "import resource as r; r.prlimit(os.getppid(), r.RLIMIT_CPU, (1, 1))",
    ),
    escape("new session", "os.setsid()"),
    escape("hostname", "import socket; socket.sethostname('x')"),
]
NETWORK = [
    escape("tcp", "import socket; socket.create_connection(('127.0.0.1', {port}))"),
    escape("udp", "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('::1', 9))"),
    escape("unix", "import socket; socket.socket(socket.AF_UNIX).connect('{folder}/socket')"),
    escape("abstract unix", "import socket; socket.socket(socket.AF_UNIX).connect('\\0secret')"),
    escape("netlink", "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
    escape(
        "a name for half a pair",
        "import socket; socket.socketpair()[0].sendto(b'x', '{folder}/socket')",
    ),
    escape(
        "descriptors over a pair",
        "import socket; socket.send_fds(socket.socketpair()[0], [b'x'], [0])",
    ),
    escape("server", "import socket; socket.create_server(('127.0.0.1', 0))"),
    escape("url", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}')"),
]
RAW = [
    syscall("memfd_create", 319, "text", "0"),
    syscall("execveat", 322, "-100", "b'/bin/true'", "0", "0", "0"),
    syscall("io_uring_setup", 425, "8", "space"),
    syscall("userfaultfd", 323, "0"),
    syscall("bpf", 321, "0", "space", "4096"),
    syscall("perf_event_open", 298, "space", "0", "-1", "-1", "0"),
    syscall("process_vm_readv", 310, "{victim}", "space", "1", "space", "1", "0"),
    syscall("pidfd_open", 434, "{victim}", "0"),
    syscall("openat2", 437, "-100", "text", "space", "24"),
    syscall("clone3", 435, "space", "88"),
    syscall("clone as fork", 56, "17", "0", "0", "0", "0"),
    syscall("clone into a namespace", 56, "0x10010f00", "0", "0", "0", "0"),
    syscall("unshare", 272, "0x10000000"),
    syscall("setns", 308, "0", "0"),
    syscall("mount", 165, "text", "text", "text", "0", "0"),
    syscall("keyctl", 250, "0", "-3", "0"),
    syscall("shmget", 29, "0x1234", "4096", "0o1666"),
    syscall("msgget", 68, "0x1234", "0o1666"),
    syscall("semget", 64, "0x1234", "1", "0o1666"),
    syscall("mq_open", 240, "b'grpo'", "0o102", "0o666", "0"),
    syscall("tkill", 200, "{victim}", "9"),
    syscall("rt_sigqueueinfo", 129, "{victim}", "9", "space"),
    syscall("another filter", 317, "1", "0", "space"),
    syscall("dumpable again", 157, "4", "1", "0", "0", "0"),
    syscall("no death with the parent", 157, "1", "0", "0", "0", "0"),
    syscall("open by handle", 304, "-100", "space", "0"),
    syscall("name_to_handle", 303, "-100", "text", "space", "space", "0"),
    syscall("inotify", 294, "0"),
    syscall("fanotify", 300, "0", "0"),
    syscall("swapoff", 168, "text"),
    syscall("reboot", 169, "0", "0", "0", "0"),
    syscall("clock", 227, "0", "space"),
    syscall("x32 getpid", 0x40000000 + 39, ends=(KILLED,)),
    Hostile(
        name="32-bit calls",
        program="""
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20; int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print('ESCAPED')
""",
        ends=(KILLED,),
    ),
]
HARM = [
    Hostile(name="endless loop", program="while True: pass", ends=(CPU, WALL)),
    Hostile(name="sleep", program="import time; time.sleep(1000)", ends=(WALL,)),
    Hostile(
        name="signals ignored",
        program="""
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
        ends=(CPU, WALL),
    ),
    Hostile(
        name="waits for stdin's end twice",
        program="import sys\nwhile True: sys.stdin.read()",
        ends=(CPU, WALL),
    ),
    Hostile(name="stops itself", program="import os; os.kill(os.getpid(), 19)", ends=(WALL,)),
    Hostile(name="memory", program="x = bytearray(1 << 40)", ends=(MEMORY,)),
    Hostile(
        name="memory in small pieces",
        program="x = []\nwhile True: x.append(bytes(1 << 20))",
        ends=(MEMORY,),
    ),
    Hostile(
        name="memory by mmap",
        program="import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24))",
        ends=(ERROR,),
    ),
    Hostile(name="list that grows", program="x = [0]\nwhile True: x += x", ends=(MEMORY,)),
    Hostile(name="huge integer", program="print(len(str(9 ** 9 ** 9)))", ends=(CPU, WALL, MEMORY)),
    Hostile(name="huge power printed", program="print(10 ** 5000)", ends=(ERROR,)),
    Hostile(name="output", program="while True: print('x' * 99999)", ends=(OUTPUT,)),
    Hostile(
        name="a gigabyte of output at once",
        program="import os\nx = b'x' * (1 << 26)\nfor _ in range(16): os.write(1, x)",
        ends=(OUTPUT,),
    ),
    Hostile(
        name="errors without end",
        program="import sys\nwhile True: sys.stderr.write('x' * 99999)",
        ends=(CPU, WALL),
    ),
    Hostile(
        name="results without end",
        program="import os\nwhile True: os.write(4, b'=1\\n' * 9999)",
        ends=(OUTPUT,),
    ),
    Hostile(
        name="recursion",
        program="import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
        ends=(KILLED, MEMORY, CPU, WALL),
    ),
    Hostile(
        name="recursion in C",
        program="import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\n"
        "repr(x)",
        ends=(KILLED, MEMORY, ERROR, CPU, WALL),
    ),
    Hostile(name="crash", program="import ctypes; ctypes.string_at(0)", ends=(KILLED,)),
    Hostile(name="abort", program="import os; os.abort()", ends=(KILLED,)),
    Hostile(
        name="thread bomb",
        program="""
import threading, time
threading.stack_size(32768)
while True:
    try: threading.Thread(target=time.sleep, args=(100,)).start()
    except RuntimeError: pass
""",
        ends=(KILLED, CPU, WALL, MEMORY),
    ),
    Hostile(
        name="fork bomb",
        program="import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        ends=(CPU, WALL),
    ),
    Hostile(
        name="descriptors",
        program="import os\nx = []\nwhile True: x.append(os.pipe())",
        ends=(ERROR,),
    ),
    Hostile(
        name="descriptors closed",
        program="import os\nos.closerange(0, 100)\nprint(42)",
        ends=ENDS,
    ),
    Hostile(
        name="pipes filled",
        program="import os\nr, w = os.pipe()\nwhile True: os.write(w, bytes(65536))",
        ends=(WALL,),
    ),
    Hostile(
        name="threads that never end",
        program="import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
        ends=(WALL,),
    ),
    Hostile(
        name="exit handler that never ends",
        program="import atexit, time\natexit.register(time.sleep, 99)",
        ends=(WALL,),
    ),
    Hostile(
        name="finalizer that never ends",
        program="class A:\n    def __del__(self):\n        while True: pass\nA()",
        ends=(CPU, WALL),
    ),
    Hostile(
        name="regular expression",
        program="import re; re.match('(a+)+b', 'a' * 64)",
        ends=(CPU, WALL),
    ),
    Hostile(name="deep source", program="(" * 9000, ends=(ERROR, MEMORY)),
    Hostile(name="zero bytes", program="x = '\0'", ends=(ERROR,)),
    Hostile(name="surrogates", program="print('\\ud800' * 9)", ends=ENDS),
    Hostile(
        name="timers",
        program="import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\nwhile True: pass",
        ends=(KILLED,),
    ),
]

# What a program does to be paid. The task: f(n) is a number that nobody could guess; as a script
# it reads n and prints that number.
_TRUE = """
class True_:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
"""
HACKS = {
    "returns nothing": "def f(n): return None",
    "exits": "import sys\nsys.exit(0)",
    "exits in the call": "import sys\ndef f(n): sys.exit(0)",
    "exits hard": "import os\nos._exit(0)",
    "exits hard in the call": "import os\ndef f(n): os._exit(0)",
    "equals everything": f"{_TRUE}\ndef f(n): return True_()",
    "list that equals": "class L(list):\n    __eq__ = lambda s, o: True\ndef f(n): return L()",
    "number that equals": "class I(int):\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
    "def f(n): return I(0)",
    "number with all answers": "class I(int):\n    __sub__ = __rsub__ = lambda s, o: 0\n"
    "    __index__ = __int__ = lambda s: 1307\ndef f(n): return I(0)",
    "text that equals": "class S(str):\n    __eq__ = lambda s, o: True\n"
    "    __hash__ = str.__hash__\ndef f(n): return S()",
    "float that equals": "class F(float):\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
    "def f(n): return F()",
    "mock.ANY": "from unittest.mock import ANY\ndef f(n): return ANY",
    "nan": "def f(n): return float('nan')",
    "walks frames": """
import sys
def f(n):
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
            if name in ('expected', 'tests', 'check'): return value
            if value == 1307: return 1307
        frame = frame.f_back
""",
    "searches the heap": """
import gc
def f(n):
    for item in gc.get_objects():
        if type(item) is dict and item.get('expected'): return item['expected']
        if type(item) in (list, tuple) and 1307 in [x for x in item if type(x) is int]: return 1307
        if type(item) is str and 'candidate' in item and 'assert' in item: return 1307
""",
    "searches memory": """
import ctypes
def f(n):
    for line in open('/proc/self/maps'):
        if '[heap]' in line: return 1307
""",
    "traces": """
import sys, threading
def tracer(frame, event, arg):
    for name in ('expected', 'want', 'tests'):
        if name in frame.f_locals: print(frame.f_locals[name])
    return tracer
sys.settrace(tracer); threading.settrace(tracer); sys.setprofile(tracer)
def f(n): return 0
""",
    "patches assert away": "import builtins\n"
    "builtins.AssertionError = type('A', (BaseException,), {})\ndef f(n): return 0",
    "patches builtins": "import builtins\nbuiltins.all = builtins.any = lambda *a: True\n"
    "builtins.len = builtins.abs = builtins.sum = lambda *a: 0\nbuiltins.compile = eval\n"
    "def f(n): return 0",
    "patches json": "import json\njson.dumps = lambda *a, **k: '1307'\n"
    "json.loads = lambda *a, **k: 1307\ndef f(n): return 0",
    "patches the codec": """
import sys
for name, module in list(sys.modules.items()):
    if 'sandbox' in name:
        for key, item in list(vars(module).items()):
            if callable(item) and not key.startswith('__'):
                setattr(module, key, lambda *a, **k: 'passed')
def f(n): return 0
""",
    "patches numpy": """
try:
    import numpy
    numpy.allclose = numpy.array_equal = lambda *a, **k: True
    numpy.ndarray = object
except ImportError: pass
def f(n): return 0
""",
    "forges results everywhere": """
import os
for fd in range(3, 64):
    for line in (b'passed', b'["passed",""]', b'=true', b'PASS', b'{"status": "ok"}'):
        try: os.write(fd, line + b'\\n')
        except OSError: pass
def f(n): return 0
""",
    "forges results and exits": 'import os\nos.write(4, b\'["passed",""]\\n\')\n'
    "os.write(1, b'PASSED')\nos._exit(0)",
    "raises like a test": "def f(n): raise SystemExit(0)",
    "raises what no handler knows": "class E(BaseException): pass\ndef f(n): raise E('passed')",
    "raises a forged name": "class E(Exception): pass\nE.__name__ = 'passed: '\ndef f(n): raise E",
    "returns a generator": "def f(n): yield 1307",
    "returns itself": "def f(n): return f",
    "returns a cycle": "x = []\nx.append(x)\ndef f(n): return x",
    "returns too deep": "def f(n):\n    x = 1307\n    for _ in range(5000): x = [x]\n    return x",
    "returns too much": "def f(n): return [1307] * 10**6",
    "returns a large number": "def f(n): return 1 << 10**6",
    "exit handlers": "import atexit, os\natexit.register(os._exit, 0)\ndef f(n): return 0",
    "import hooks": "import sys\nclass H:\n    def find_spec(self, *a): print('1307')\n"
    "sys.meta_path.insert(0, H())\nsys.path_hooks.insert(0, H)\ndef f(n): return 0",
    "replaces __main__": "import sys\nsys.modules['__main__'] = sys.modules['builtins']\n"
    "globals().clear()",
    "replaces stdout": "import sys\nsys.stdout = sys.stderr = None\ndef f(n): return 0",
    "reads on": "import sys, os\nprint(sys.stdin.read())\nprint(os.listdir('/proc/self/fd'))",
    "colliding keys": "def f(n): return {k * (2**61 - 1): 0 for k in range(9**5)}",
    "changes what it is given": "def f(n): return 0\nf.__code__ = (lambda n: None).__code__",
    "no function": "pass",
    "function that is none": "f = 1307",
    "syntax error": "def f(n) return",
    "environment": "import os\nprint(os.environ)\ndef f(n): return os.environ.get('GRPO_SECRET')",
    "pays by sleeping": "import time\ndef f(n): time.sleep(99)",
    "unpickles": "class P:\n    def __reduce__(self): return (print, ('1307',))\n"
    "def f(n): return P()",
}

ESCAPES = FILES + PROCESSES + NETWORK + (RAW if platform.machine() == "x86_64" else [])
