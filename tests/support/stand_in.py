"""A server with vLLM's routes around the bundled model: the protocol is tried in every run.

test_engine.py asks it and the real one the same things. As a program it stands for
`python -m vllm.entrypoints.openai.api_server`: `python tests/support/stand_in.py --port 8000 ...`
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file

from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler
from grpo_policy.samplers.vllm.about import adapter_rank
from grpo_policy.samplers.vllm.worker.grpo_envs_group import Group, Meeting

VERSION = "0.0.0"


class NoModel(Exception):
    """What the real server answers with 404."""


class StandIn:
    """What is behind the routes. Tests look into it, and tell it to fail."""

    def __init__(self, policy: Policy, *, version: str = VERSION, dtype: str = "float32") -> None:
        self.policy, self.version, self.dtype = policy, version, dtype
        self.length = 512
        self.weights = "default"
        """The name of its weights."""
        self.adapters: dict[str, Path] = {}
        self.paused = self.updating = False
        self.group: Group | None = None
        """That weights are broadcast in."""
        self.broadcasts = True
        self.workers = 1
        """That it says it has: more than there are make a run wait for them."""
        self.fault = ""
        """What it does at the next completion: die, hang, break; at the next push: forget; in the
        midst of the next broadcast: stall, fall."""
        self.after = 0
        """Completions before it does that."""
        self.seconds = 0.0
        """That a completion takes, at least."""
        self.salts: list[str] = []
        """Of all completions so far."""
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    def get(self, route: str) -> Any:
        """Answer a GET."""
        known = {
            "/health": "",
            "/weight_info": {"weight_version": self.weights},
            "/v1/models": {"data": [{"id": "tiny"}, *({"id": name} for name in self.adapters)]},
        }
        return known[route]

    def about(self) -> dict[str, Any]:
        """What vLLM's worker says for runs, see `grpo_envs_weights.py`."""
        return {
            "engine": f"vllm {self.version}",
            "dtype": self.dtype,
            "length": self.length,
            "logprobs": "processed_logprobs",
            "pushes": "file",
            "lora_rank": adapter_rank(self.policy),
            "broadcasts": self.broadcasts,
        }

    def about_group(self) -> dict[str, Any]:
        """The same of the group that weights are broadcast in."""
        name = self.group.meeting.name if self.group else ""
        return {"group": name, "workers": self.workers, "gpu": ""}

    def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """Answer a POST."""
        if route == "/pause?mode=keep":
            self.paused = True
        elif route == "/resume":
            self.paused = False
        elif route == "/init_weight_transfer_engine":
            self.group = Group(Meeting(**body["init_info"]["meeting"]), 1, torch.device("cpu"))
        elif route == "/start_weight_update":
            assert self.paused
            assert not self.updating, "while a weight update is already active"
            self.updating = True
        elif route == "/update_weights":
            assert self.updating
            self._update(body["update_info"])
        elif route == "/finish_weight_update":
            self.updating = False
            if self.fault != "forget":
                self.weights = body["weight_version"]
        elif route in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return self._adapters(route, body)
        elif route == "/collective_rpc":
            return {"results": [self._by_name(body["method"])]}
        else:
            return self.generate(body)
        return {}

    def _by_name(self, method: str) -> Any:
        if method == "end_broken_update":
            self.updating = False
            return None
        return {"about_for_runs": self.about, "about_group": self.about_group}[method]()

    def generate(self, body: Mapping[str, Any]) -> Any:
        """Write a completion."""
        self._fail()
        self.stopping.wait(self.seconds)
        asked = body["sampling_params"]
        assert asked["logprobs"] == 0
        assert asked["n"] == 1
        name = body.get("model", "tiny")
        if name not in ("tiny", *self.adapters):
            raise NoModel(f"The model `{name}` does not exist.")
        how = Decoding(
            max_new_tokens=asked["max_tokens"],
            temperature=asked["temperature"],
            stop=tuple(asked.get("stop", ())),
            repetition_penalty=asked["repetition_penalty"],
            **{key: asked[key] for key in ("top_p", "top_k", "min_p") if key in asked},
        )
        with self._lock:
            assert not self.paused
            self.salts.append(body["cache_salt"])
            assert tuple(asked["stop_token_ids"]) == self.policy.eos_ids
            sampler = TorchSampler(self.policy)
            prompt = tuple(body["token_ids"])
            ((_, (found,)),) = sampler.sample([prompt], [asked.get("seed", 0)], how)
        choice = {
            "index": 0,
            "token_ids": list(found.token_ids),
            "finish_reason": found.finish_reason,
            "weight_versions": [{"version": self.weights, "start": 0, "end": len(found.token_ids)}],
            "logprobs": {"content": [{"logprob": value} for value in found.logprobs]},
        }
        return {"choices": [choice]}

    def _fail(self) -> None:
        with self._lock:
            self.after -= 1
            if self.after >= 0:
                return
        if self.fault == "hang":
            self.stopping.wait()
        if self.fault == "die":
            self.stopping.set()
            raise ConnectionAbortedError
        if self.fault == "break":
            raise RuntimeError("EngineCore encountered an issue.")

    def _update(self, told: Mapping[str, Any]) -> None:
        if "file" in told:
            self._load(told["file"])
            return
        if self.group is None:
            raise RuntimeError("this worker is in no group that receives weights")
        state: dict[str, torch.Tensor] = {}
        for weights in self.group.received(told):
            if self.fault == "stall":
                self.stopping.wait()
            if self.fault == "fall":
                self.group.close()
                self.stopping.set()
                raise ConnectionAbortedError
            state |= dict(weights)
        self.policy.model.load_state_dict(state, strict=False)

    def _load(self, place: str) -> None:
        with TemporaryDirectory() as folder:
            file = Path(place)
            if urlsplit(place).scheme == "http":
                file = Path(folder) / "weights"
                with urllib.request.urlopen(place, timeout=10) as answer:
                    file.write_bytes(answer.read())
            found = load_file(file)
        self.policy.model.load_state_dict(found, strict=False)

    def _adapters(self, route: str, body: Mapping[str, Any]) -> str:
        if route == "/v1/load_lora_adapter":
            self._load_adapters(body["lora_name"], Path(body["lora_path"]))
            return f"Success: LoRA adapter '{body['lora_name']}' added successfully."
        del self.adapters[body["lora_name"]]
        return f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    def _load_adapters(self, name: str, folder: Path) -> None:
        import peft

        self.adapters[name] = folder
        weights = peft.load_peft_weights(str(folder), device="cpu")
        peft.set_peft_model_state_dict(self.policy.model, weights)
        self.policy.masters.publish()


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda: stand_in.get(self.path))

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            self._answer(lambda: stand_in.post(self.path, body))

        def _answer(self, do: Any) -> None:
            if stand_in.stopping.is_set():
                return  # without a word, as of a process that is gone
            try:
                code, said = 200, do()
            except ConnectionAbortedError:
                return
            except NoModel as error:
                code, said = 404, {"error": {"message": str(error)}}
            except Exception as error:  # noqa: BLE001 - as a web framework answers
                code, said = 500, {"error": {"message": f"{type(error).__name__}: {error}"}}
            plain = isinstance(said, str)
            text = (said if plain else json.dumps(said)).encode()
            self.send_response(code)
            form = "text/plain; charset=utf-8" if plain else "application/json"
            self.send_header("Content-Type", form)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # it is waited for no longer
                self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def serving(stand_in: StandIn, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve meanwhile; gives the address."""
    server = ThreadingHTTPServer((host, port), _handler(stand_in))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        stand_in.stopping.set()
        server.shutdown()
        server.server_close()


def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=0.0)
    options, _ = parser.parse_known_args()
    torch.set_num_threads(1)
    stand_in = StandIn(load_policy(str(TINY)), dtype=options.dtype)
    stand_in.seconds = options.seconds
    with serving(stand_in, options.port, options.host):
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main()
