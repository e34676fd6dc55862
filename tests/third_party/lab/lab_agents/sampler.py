"""A sampler that knows no cache of ours: Transformers' `generate`, a few rows at a time."""

from collections.abc import Callable, Iterator, Sequence

import torch

from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding


class GenerateSampler:
    """Implements `grpo_policy.samplers.Sampler`."""

    def __init__(self, rows: int) -> None:
        """Take how many completions of a prompt are sampled at once."""
        self.rows = rows
        self.version = -1
        self._policy: Policy | None = None
        self._completions = 0

    def sync(self, policy: Policy) -> None:
        """Use the policy's own model: there is nothing to copy."""
        self._policy, self.version = policy, policy.version

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield the completions of one prompt after the other."""
        copies = len(seeds) // len(prompts)
        for p, prompt in enumerate(prompts):
            own = seeds[p * copies : (p + 1) * copies]
            done: list[Completion] = []
            for start in range(0, copies, self.rows):
                tick()
                done += self._generate(prompt, own[start : start + self.rows], how)
            self._completions += len(done)
            yield p, done

    @torch.inference_mode()
    def _generate(
        self, prompt: tuple[int, ...], seeds: Sequence[int], how: Decoding
    ) -> list[Completion]:
        policy = self._policy
        assert policy is not None
        ids = torch.tensor([prompt] * len(seeds), device=policy.device)
        sampled = {"do_sample": True, "temperature": how.temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds[0] % 2**63)
            out = policy.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=how.max_new_tokens,
                eos_token_id=list(policy.eos_ids),
                pad_token_id=policy.pad_id,
                return_dict_in_generate=True,
                output_logits=True,
                **(sampled if how.temperature else {"do_sample": False}),
            )
        logps_BTV = torch.stack(out.logits, dim=1).float()
        logps_BTV = (logps_BTV / (how.temperature or 1.0)).log_softmax(dim=-1)
        tokens_BT = out.sequences[:, len(prompt) :]
        logps_BT = logps_BTV.gather(2, tokens_BT[:, :, None])[:, :, 0]
        rows = zip(tokens_BT.tolist(), logps_BT.tolist(), strict=True)
        return [self._completion(policy, tokens, logps) for tokens, logps in rows]

    def _completion(
        self, policy: Policy, tokens: Sequence[int], logps: Sequence[float]
    ) -> Completion:
        ends = [t for t, token in enumerate(tokens) if token in policy.eos_ids]
        length = ends[0] + 1 if ends else len(tokens)
        ids = tuple(tokens[:length])
        return Completion(
            text=policy.decode(ids),
            token_ids=ids,
            logprobs=tuple(logps[:length]),
            finish_reason="stop" if ends else "length",
        )

    def release(self) -> None:
        """Do nothing: no cache is kept from turn to turn."""

    def metrics(self) -> dict[str, float]:
        """Return how many completions were sampled so far."""
        return {"lab/completions": float(self._completions)}

    def close(self) -> None:
        """Let go of the policy."""
        self._policy = None
