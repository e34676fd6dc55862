"""The request for a completion, and reading the server's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_envs.types import Completion
from grpo_policy.chat import Chat
from grpo_policy.samplers.draw import Stops
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.vllm.client import Missing, Server, ServerLost

ROUTE = "/inference/v1/generate"
_SEEDS = 2**63
_FINAL_ONLY = 2
"""vLLM's `output_kind` for one answer at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A completion that is requested."""

    prompt: tuple[int, ...]
    seed: int
    most: int
    """The most tokens of the completion."""


@dataclass(frozen=True, slots=True)
class Written:
    """The tokens that a server sampled."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool
    """Whether the completion ended by itself; if not, it reached the token limit."""


class Dialect:
    """Requests completions from servers with the settings of a `Decoding`."""

    def __init__(self, chat: Chat, how: Decoding, version: str, adapter: str | None) -> None:
        """Store the settings of the requests.

        Args:
            chat: Has the tokens that end an answer.
            how: Temperature and the other settings.
            version: The version of the weights that must sample the completions.
            adapter: The name of the adapters (LoRA) on the servers; None: there are none.

        Raises:
            ConfigError: vLLM would sample from another distribution than Transformers.
        """
        if how.temperature and how.min_p and how.top_p < 1:
            raise ConfigError(
                f"top_p={how.top_p:g} with min_p={how.min_p:g} and sampler=vllm: vLLM applies "
                "min_p first, unlike Transformers. Allowed: one of them."
            )
        self.chat, self.how, self.version, self.adapter = chat, how, version, adapter
        self._stops = Stops(how.stop, chat.decode) if how.stop else None

    def ask(self, server: Server, asked: Asked) -> Written:
        """Return a completion from a server.

        Raises:
            ServerLost: the server gives no completion, or one of other weights.
            Refused: the server refuses the request.
        """
        written, by_text = self._ask(server, asked, with_stops=True)
        if self._stops is None:
            return written
        end = self._stops.end(written.token_ids, 0)
        if end is None and by_text:  # the server found a stop string that our decoding has not
            written, _ = self._ask(server, asked, with_stops=False)
            end = self._stops.end(written.token_ids, 0)
        if end is None:
            return written
        return Written(written.token_ids[:end], written.logprobs[:end], ended=True)

    def completion(self, written: Written) -> Completion:
        """Return the tokens as a completion with text."""
        return Completion(
            text=self.chat.decode(written.token_ids),
            token_ids=written.token_ids,
            logprobs=written.logprobs,
            finish_reason="stop" if written.ended else "length",
        )

    def body(self, asked: Asked, *, with_stops: bool = True) -> dict[str, Any]:
        """Return a request for one completion."""
        how, stops = self.how, bool(self.how.stop) and with_stops
        params: dict[str, Any] = {
            "n": 1,
            "max_tokens": asked.most,
            "temperature": how.temperature,
            "logprobs": 0,  # of the sampled token only
            "stop_token_ids": list(self.chat.eos_ids),
            "ignore_eos": True,  # only the end tokens above count, not those of the server's model
            "detokenize": stops,
            "output_kind": _FINAL_ONLY,
            "repetition_penalty": how.repetition_penalty,
        }
        if how.temperature:
            params |= {"seed": asked.seed % _SEEDS, "top_p": how.top_p, "min_p": how.min_p}
            params["top_k"] = how.top_k
        if stops:
            params |= {"stop": list(how.stop), "include_stop_str_in_output": True}
            params["skip_special_tokens"] = False
        body = {
            "token_ids": list(asked.prompt),
            "sampling_params": params,
            "cache_salt": self.version,  # no prefix cache of other weights
        }
        return body if self.adapter is None else body | {"model": self.adapter}

    def _ask(self, server: Server, asked: Asked, *, with_stops: bool) -> tuple[Written, bool]:
        """Return the server's tokens, and whether they ended without an end token."""
        try:
            answer = server.post(ROUTE, self.body(asked, with_stops=with_stops))
        except Missing as error:  # the server was restarted without the run's adapters
            raise ServerLost(str(error)) from error
        try:
            written = self._read(answer, server)
        except (LookupError, TypeError, ValueError) as error:
            raise ServerLost(f"{server.url}{ROUTE}: an answer of an unknown form") from error
        by_token = written.token_ids[-1:] and written.token_ids[-1] in self.chat.eos_ids
        return written, written.ended and not by_token

    def _read(self, answer: Mapping[str, Any], server: Server) -> Written:
        (choice,) = answer["choices"]
        found = {span["version"] for span in choice["weight_versions"]}
        if self.adapter is None and found != {self.version}:
            names = " and ".join(sorted(found))
            raise ServerLost(f"{server.url}: it has the weights {names!r}, not {self.version!r}")
        tokens = tuple(int(token) for token in choice["token_ids"])
        logps = tuple(float(entry["logprob"]) for entry in choice["logprobs"]["content"])
        if len(tokens) != len(logps) or choice["finish_reason"] not in ("stop", "length"):
            raise ValueError
        return Written(tokens, logps, choice["finish_reason"] == "stop")
