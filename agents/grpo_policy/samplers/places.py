"""Places for completions that are sampled at once; a finished one leaves its place to another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.conversations import Conversations, Past
from grpo_policy.samplers.draw import Draw, Stops
from grpo_policy.samplers.fixed import FixedStep, Fixing, fits
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.room import Waiting
from grpo_policy.samplers.rows import Joining, Row, Rows, prefill
from grpo_policy.samplers.written import Written

_JOIN = 8
"""New rows join when 1/8 of the batch is free: every join copies the cache."""


class Places:
    """The rows that are sampled at once; new rows take the places of finished ones."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        budget: Budget,
        conversations: Conversations,
        fixing: Fixing,
    ) -> None:
        self.policy, self.budget, self.seeds, self.how = policy, budget, seeds, how
        self.conversations, self.fixing = conversations, fixing
        self.fixed: FixedStep | None = None
        """The current fixed step, if `fixing` asks for one and the rows allow it."""
        self.copies = len(seeds) // len(prompts)
        self.waiting = Waiting(policy, prompts, self.copies, how.max_new_tokens)
        slots = min(len(seeds), max(budget.rows, self.copies))
        self.draw = Draw(policy, how, slots, max(map(len, prompts)))
        self.written = Written(policy, slots, max(self.waiting.limits))
        self.stops = Stops(how.stop, policy.decode) if how.stop else None
        self.rows = Rows(policy)
        self.unused = list(range(slots))
        """Slots without a row."""
        self.room = 0
        """Tokens of the longest prompt and its answer."""
        self.looked = 0
        """The tick of the last `look`."""
        self.found: defaultdict[int, dict[int, Completion]] = defaultdict(dict)
        """Completions of groups that are not complete."""
        self.collected: dict[int, Completion] = {}
        """Completions of finished rows that are still in the batch, by their slots."""

    def step(self) -> None:
        """Sample the next token of each row."""
        if self.fixed is not None and self.fixed.full:
            self._loosen()
        if self.fixed is None and self.fixing.fix and fits(self.rows):
            self.fixed = FixedStep(self.rows, self._choose, self.fixing)
        if self.fixed is not None:
            self.fixed()
        else:
            self.rows.feed(self._choose(self.rows.logits(), self.rows.slots_R))

    def _loosen(self) -> None:
        if self.fixed is not None:
            self.fixed.end()
            self.fixed = None

    def look(self) -> Iterator[tuple[int, list[Completion]]]:
        """Find the finished rows; yield the groups that are complete.

        Dropping rows copies the cache. So finished rows are dropped when new rows join, when at
        least half of the rows are finished, or when a row is full: the model may have no position
        for another token of a full row.
        """
        rows = self.rows.rows
        over = self._over()
        yield from self._collect([row for row, ended in zip(rows, over, strict=True) if ended])
        kept = [number for number, ended in enumerate(over) if not ended]
        new = self._next([rows[number] for number in kept])
        if new or len(kept) <= len(rows) // 2 or self.rows.full():
            self._loosen()
            gone = {n: self.collected.pop(rows[n].slot) for n, ended in enumerate(over) if ended}
            self.unused += [rows[number].slot for number in gone]
            joining = self._begin(new) if new else None
            self._remember(gone, len(kept) + len(new))
            self.rows.change(kept, joining, self.room)

    def _remember(self, gone: Mapping[int, Completion], left: int) -> None:
        """Keep the caches of rows that leave, by number, as far as the memory allows."""
        conversations = self.conversations
        tokens = self.budget.beside(left, self.room)
        conversations.fit(tokens)
        for number, completion in gone.items() if conversations.keep else ():
            context = self.rows.rows[number].prompt + completion.token_ids[:-1]
            if conversations.tokens + len(context) <= tokens:
                conversations.add(self.rows.past(number, context))

    def _choose(self, logits_RV: Tensor, slots_R: Tensor) -> Tensor:
        """Draw a token for each row and record it."""
        t_R = self.written.counts_S[slots_R]
        tokens_R, logps_R, forced_R = self.draw(logits_RV, slots_R, t_R)
        self.written.add((slots_R, t_R), tokens_R, logps_R, forced_R)
        return tokens_R

    def _over(self) -> list[bool]:
        """Return which rows have ended or have as many tokens as they may have."""
        rows = self.rows.rows
        if not rows:
            return []
        if self.stops:
            done = [self.rows.written(row) for row in rows]
            new = self.rows.tick - self.looked
            since = [(max(count - new, 0), count) for count in done]
            self.written.stop(self.stops, [row.slot for row in rows], since)
        self.looked = self.rows.tick
        ended = self.written.ended(self.rows.slots_R)
        return [
            end or self.rows.written(row) >= row.limit for end, row in zip(ended, rows, strict=True)
        ]

    def _collect(self, ended: Sequence[Row]) -> Iterator[tuple[int, list[Completion]]]:
        """Store the completions of finished rows; yield the groups that are complete."""
        new = [row for row in ended if row.slot not in self.collected]
        if not new:
            return
        completions = self.written.completions([row.slot for row in new])
        for row, completion in zip(new, completions, strict=True):
            self.collected[row.slot] = completion
            group = self.found[row.group]
            group[row.member] = completion
            if len(group) == self.copies:
                yield row.group, [group[member] for member in range(self.copies)]
                del self.found[row.group]

    def _next(self, kept: Sequence[Row]) -> list[tuple[int, int]]:
        """Return the completions (group, member) that join these rows: whole groups if they fit."""
        if not self.waiting or (kept and not self.policy.caching.joins):
            return []
        longest = max(self.waiting.next_length, *(len(row.prompt) for row in kept), 0)
        room = longest + self.how.max_new_tokens
        most = self.budget.at_once(room, self.copies)
        free = most - len(kept)
        if kept and free < max(min(self.copies, most), most // _JOIN):
            return []
        self.room = room
        new = self.waiting.take(free - free % self.copies or free)
        self.budget.tried = len(kept) + len(new)
        return new

    def _begin(self, new: Sequence[tuple[int, int]]) -> Joining:
        """Pass the prompts of these completions through the model and draw their first tokens."""
        prompts, limits = self.waiting.prompts, self.waiting.limits
        pasts = self.conversations.take(group for group, _ in new)
        begun = self.rows.tick - 1
        rows = [
            Row(
                group=group,
                member=member,
                prompt=prompts[group],
                limit=limits[group],
                slot=self.unused.pop(),
                begun=begun,
            )
            for group, member in sorted(new, key=lambda each: _order(each[0], prompts, pasts))
        ]
        slots_R = torch.tensor([row.slot for row in rows], device=self.policy.device)
        seeds = [self.seeds[row.group * self.copies + row.member] for row in rows]
        self.draw.begin(slots_R, [row.prompt for row in rows], seeds)
        self.written.begin(slots_R)
        parts, logits_RV = prefill(self.policy, rows, pasts)
        return Joining(rows=rows, parts=parts, tokens_R=self._choose(logits_RV, slots_R))


def _order(
    group: int, prompts: Sequence[tuple[int, ...]], pasts: Mapping[int, Past]
) -> tuple[bool, int]:
    """Return the sort key that puts prompts in the order `prefill` needs."""
    past = pasts.get(group)
    return past is None, len(past.tokens if past else ()) - len(prompts[group])
