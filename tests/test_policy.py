"""Scoring tokens: against the plain way, in value and gradient."""

import pytest
import torch

from grpo_agent import policy as policy_module
from grpo_agent.batch import Batch, collate
from grpo_agent.policy import Policy
from grpo_envs.types import Completion, Group, Reward


def group(prompt: list[int], *completions: list[int]) -> Group:
    return Group(
        key=0,
        prompt="",
        prompt_ids=tuple(prompt),
        completions=tuple(
            Completion(text="", token_ids=tuple(ids), logprobs=(-1.0,) * len(ids))
            for ids in completions
        ),
        rewards=tuple(Reward(parts={"correct": 0.0}) for _ in completions),
    )


def ragged(policy: Policy) -> Batch:
    groups = [group([5, 6, 7], [8, 9], [10]), group([11], [12, 13, 14, 15], [16, 17, 18])]
    return collate(groups, policy.pad_id, policy.device)


def naive(
    policy: Policy, prompt: list[int], completion: list[int], temperature: float
) -> torch.Tensor:
    """Log-probabilities and entropies of one unpadded row, from the full logits."""
    ids = torch.tensor([prompt + completion])
    logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
    logps = logits.log_softmax(dim=-1)
    entropy = -(logps.exp() * logps).sum(dim=-1)
    return torch.stack([logps[torch.arange(len(completion)), torch.tensor(completion)], entropy])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 1 << 25], ids=["one token a chunk", "all in one chunk"])
def test_scores_equal_the_plain_way(
    random_policy: Policy, monkeypatch: pytest.MonkeyPatch, temperature: float, chunk: int
) -> None:
    monkeypatch.setattr(policy_module, "_CHUNK_ELEMENTS", chunk)
    rows = [([5, 6, 7], [8, 9]), ([5, 6, 7], [10]), ([11], [12, 13, 14, 15]), ([11], [16, 17, 18])]
    batch = ragged(random_policy)
    logps_BT, entropy_BT = random_policy(batch, temperature)
    for i, (prompt, completion) in enumerate(rows):
        expected = naive(random_policy, prompt, completion, temperature)
        n = len(completion)
        torch.testing.assert_close(logps_BT[i, :n], expected[0])
        torch.testing.assert_close(entropy_BT[i, :n], expected[1])
        assert not logps_BT[i, n:].any()
    loss = logps_BT.sum()
    loss.backward()
    weight = random_policy.model.get_input_embeddings().weight
    got = weight.grad.clone()
    weight.grad = None
    torch.stack(
        [naive(random_policy, p, c, temperature)[0].sum() for p, c in rows]
    ).sum().backward()
    torch.testing.assert_close(got, weight.grad)


def test_the_mask_comes_from_lengths_not_from_the_pad_token(random_policy: Policy) -> None:
    """A completion that holds the padding token, or ends with it, keeps all its tokens."""
    pad = random_policy.pad_id
    batch = collate([group([5], [8, pad, 9, pad], [8])], pad, random_policy.device)
    assert batch.mask_BT.tolist() == [[True] * 4, [True, False, False, False]]


def test_rows_are_cut_to_their_longest(random_policy: Policy) -> None:
    batch = ragged(random_policy)
    part = batch.rows(slice(0, 2))
    assert part.input_ids_BL.tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 10, random_policy.pad_id]]
    assert part.mask_BT.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(random_policy(part, 1.0)[0], random_policy(batch, 1.0)[0][:2, :2])


def test_a_prompt_goes_through_the_chat_template(tiny: Policy) -> None:
    ids = tiny.render("What is 1+2?", "Be brief.")
    assert tiny.tokenizer.decode(list(ids)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "system" not in tiny.tokenizer.decode(list(tiny.render("What is 1+2?")))


def test_a_model_without_a_template_gets_plain_text(tiny: Policy) -> None:
    tiny.tokenizer.chat_template = None
    assert tiny.tokenizer.decode(list(tiny.render("1+2?", "Be brief."))) == "Be brief.\n\n1+2?\n"


def test_decoding_keeps_think_and_answer_and_drops_the_end(tiny: Policy) -> None:
    text = "<think>1+2=3\u4f60\U0001f600</think><answer>3</answer>"
    ids = [*tiny.tokenizer(text)["input_ids"], tiny.eos_ids[0]]
    assert tiny.decode(tuple(ids)) == text
