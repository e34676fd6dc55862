"""What a server is asked for one completion, and how its answer is read."""

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
    """One completion that is wanted."""

    prompt: tuple[int, ...]
    seed: int
    most: int
    """Tokens."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a server wrote."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool
    """Whether it ended itself; else it ran out of tokens."""


class Dialect:
    """Speaks of completions with servers, in the way that a `Decoding` asks for."""

    def __init__(self, chat: Chat, how: Decoding, version: str, adapter: str | None) -> None:
        """Begin.

        Args:
            chat: Has the tokens that end an answer.
            how: Its fields.
            version: Of the weights that the completions must come from.
            adapter: The name that the servers know the adapters (LoRA) by; None: there are none.

        Raises:
            ConfigError: vLLM would sample from another distribution than Transformers.
        """
        if how.temperature and how.min_p and how.top_p < 1:
            raise ConfigError(
                f"top_p={how.top_p:g} with min_p={how.min_p:g} and sampler=vllm, which cuts by "
                "min_p first: not the distribution of Transformers. Allowed: one of them."
            )
        self.chat, self.how, self.version, self.adapter = chat, how, version, adapter
        self._stops = Stops(how.stop, chat.decode) if how.stop else None

    def ask(self, server: Server, asked: Asked) -> Written:
        """Return a completion of a server.

        Raises:
            ServerLost: it gives none, or one of other weights.
            Refused: it refuses the request.
        """
        written, by_text = self._ask(server, asked, with_stops=True)
        if self._stops is None:
            return written
        end = self._stops.end(written.token_ids, 0)
        if end is None and by_text:  # the server reads a stop string where this tokenizer has none
            written, _ = self._ask(server, asked, with_stops=False)
            end = self._stops.end(written.token_ids, 0)
        if end is None:
            return written
        return Written(written.token_ids[:end], written.logprobs[:end], ended=True)

    def completion(self, written: Written) -> Completion:
        """Return what was written, with its text."""
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
            "logprobs": 0,  # that of the sampled token alone
            "stop_token_ids": list(self.chat.eos_ids),
            "ignore_eos": True,  # the end tokens are those above, whatever the server's model says
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
            "cache_salt": self.version,  # never the cache of other weights
        }
        return body if self.adapter is None else body | {"model": self.adapter}

    def _ask(self, server: Server, asked: Asked, *, with_stops: bool) -> tuple[Written, bool]:
        """Return what a server writes, and whether it ended at no end token."""
        try:
            answer = server.post(ROUTE, self.body(asked, with_stops=with_stops))
        except Missing as error:  # it was started anew, without the run's adapters
            raise ServerLost(str(error)) from error
        try:
            written = self._read(answer, server)
        except (LookupError, TypeError, ValueError) as error:
            raise ServerLost(f"{server.url}{ROUTE}: an answer of another form") from error
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
