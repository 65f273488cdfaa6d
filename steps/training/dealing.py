"""Which rows the coming batches hold, decided again while a model trains on them; and when epochs are enough.

Two measures change a plan of batches under way. Rows of one conflict group say different things about the same
question: a step never holds two of them, until the model answers every one of them right. Domains that the model
begins to forget take a share of the coming batches. Neither changes how many rows a batch has, nor how many steps
there are. All of it is pure Python: what the model can do comes from a function that is handed in.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import cycle
from random import Random


def stop_epoch(losses: list[float], delta: float) -> int | None:
    """The first epoch, counted from 1, whose validation loss exceeds that of the epoch before by more than delta.

    The weights to keep are those of the epoch before it (Xue et al., 2026, equation 7 and algorithm 5).
    """
    rises = (e for e in range(1, len(losses)) if losses[e] > losses[e - 1] + delta)
    return next((e + 1 for e in rises), None)


def fallen(before: dict[str, float], now: dict[str, float], drop: float) -> list[str]:
    """The domains whose accuracy fell by more than a share of `drop` of what it was."""
    return [domain for domain in now if before.get(domain, 0.0) - now[domain] > drop * before.get(domain, 0.0)]


def spread(
    rows: list[int], steps: list[int], groups: dict[int, str], held: dict[int, set[str]], random: Random
) -> list[int]:
    """Give every slot a row, so that no step holds two rows of a group.

    Every step is a bucket. A group goes to the steps with most free slots, one row each: as long as no step holds
    groups from before, this finds an arrangement whenever there is one (Gale-Ryser), in any order of the groups.

    Args:
        rows: the rows to place.
        steps: the step that each slot belongs to; as many as rows.
        groups: row -> its group, for the rows that have one.
        held: step -> groups that lie there already; the placed ones are added.

    Returns:
        The row of each slot.

    Raises:
        ValueError: a group has more rows than there are steps for them.
    """
    rows = random.sample(rows, len(rows))
    free: dict[int, list[int]] = defaultdict(list)
    for slot in random.sample(range(len(steps)), len(steps)):
        free[steps[slot]].append(slot)
    members: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row in groups:
            members[groups[row]].append(row)
    dealt: dict[int, int] = {}
    fullest = [(-len(slots), random.random(), step) for step, slots in free.items()]
    heapq.heapify(fullest)
    for group, own in members.items():
        chosen: list[int] = []
        blocked: list[int] = []
        while fullest and len(chosen) < len(own):
            step = heapq.heappop(fullest)[-1]
            (blocked if group in held[step] else chosen).append(step)
        if len(chosen) < len(own):
            raise ValueError(
                f"buckets: conflict group {group} has {len(own)} rows, and {len(free)} steps of an epoch are too few to"
                " keep them apart; lower batch_size or gradient_accumulation"
            )
        for row, step in zip(own, chosen, strict=True):
            dealt[free[step].pop()] = row
            held[step].add(group)
        for step in (*chosen, *blocked):
            if free[step]:
                heapq.heappush(fullest, (-len(free[step]), random.random(), step))
    single = (row for row in rows if row not in groups)
    return [dealt[slot] if slot in dealt else next(single) for slot in range(len(steps))]


def keep_apart(
    order: list[int],
    first: int,
    epoch_rows: int,
    step_rows: int,
    groups: dict[int, str],
    fixed: Iterable[int],
    random: Random,
) -> list[int]:
    """The rows from slot `first` on shuffled anew, each epoch within itself, so that no step holds two of a group.

    Args:
        order: the row of every slot of the run.
        first: a slot at which a step begins.
        epoch_rows: slots of an epoch.
        step_rows: slots of a step.
        groups: row -> its group, for the rows that have one.
        fixed: slots that keep their row.

    Raises:
        ValueError: see `spread`.
    """
    order = list(order)
    fixed = set(fixed)
    held: dict[int, set[str]] = defaultdict(set)
    for slot in fixed:
        if order[slot] in groups:
            held[slot // step_rows].add(groups[order[slot]])
    for start in range(first - first % epoch_rows, len(order), epoch_rows):
        slots = [s for s in range(max(start, first), min(start + epoch_rows, len(order))) if s not in fixed]
        steps = [slot // step_rows for slot in slots]
        for slot, row in zip(slots, spread([order[s] for s in slots], steps, groups, held, random), strict=True):
            order[slot] = row
    return order


def resample(batches: list[range], share: float, pools: list[list[int]], random: Random) -> dict[int, int]:
    """Slot -> row for a share of the slots of each batch: the pools take turns, and so do the rows of a pool."""
    turns = cycle([cycle(random.sample(pool, len(pool))) for pool in pools])
    return {slot: next(next(turns)) for batch in batches for slot in random.sample(batch, round(share * len(batch)))}


class Dealer:
    """Deals the coming batches of a plan again, at the steps that `buckets` and `resample` name.

    After step s the loader has one batch of step s + 1 already, so what changes begins with step s + 2. A group whose
    rows were all answered right stays free: so the batches in force always meet what is asked of the next ones.

    Args:
        batches: row indices of each forward pass; changed in place.
        accumulation: forward passes per step.
        settings: those of the stage sft.
        rows, valid_rows: encoded rows with their "file", the former with their "conflict_group" too.
        right: tells of each of some rows whether the model has every trained token right.
    """

    def __init__(
        self,
        batches: list[list[int]],
        accumulation: int,
        settings: dict,
        rows: list[dict],
        valid_rows: list[dict],
        right: Callable[[list[dict]], list[bool]],
    ):
        self.batches, self.settings, self.rows, self.valid_rows, self.right = batches, settings, rows, valid_rows, right
        self.order = [row for batch in batches for row in batch]
        self.batch_rows = len(batches[0])
        self.step_rows = self.batch_rows * accumulation
        self.fixed: list[int] = []
        self.open: dict[str, list[int]] = {}
        self.accuracies: dict[str, float] = {}
        self.log: list[dict] = []
        self.left_out = sorted({row["file"] for row in rows} - {row["file"] for row in valid_rows})
        if settings["buckets"]:
            groups: dict[str, list[int]] = defaultdict(list)
            for index, row in enumerate(rows):
                if row.get("conflict_group") is not None:
                    groups[row["conflict_group"]].append(index)
            self.open = {group: members for group, members in groups.items() if len(members) > 1}
            self.order = self._kept_apart(0)
            self._enter(0, "buckets")
            self._lay()

    def after(self, step: int) -> None:
        """What is due after a step; nothing where no later step could change."""
        first = (step + 1) * self.step_rows
        if first >= len(self.order):
            return
        self.fixed = [slot for slot in self.fixed if slot >= first]
        due = [kind for kind in ("buckets", "resample") if self.settings[kind]]
        for kind in due:
            if step % self.settings[kind]["every"] == 0:
                (self._resolve if kind == "buckets" else self._resample)(step, first)
                self._lay()

    def _resolve(self, step: int, first: int) -> None:
        """Release the groups that are learned and deal the coming rows under the constraint of the others."""
        if not self.open:
            return
        members = [row for group in self.open.values() for row in group]
        right = dict(zip(members, self.right([self.rows[row] for row in members]), strict=True))
        self.open = {g: group for g, group in self.open.items() if not all(right[row] for row in group)}
        try:
            self.order = self._kept_apart(first)
        except ValueError:
            pass  # A group as large as an epoch has steps: the batches in force keep it apart.
        self._enter(step, "buckets")

    def _resample(self, step: int, first: int) -> None:
        """Give the domains that fell since the last look a share of the batches until the next one."""
        settings = self.settings["resample"]
        right = self.right(self.valid_rows)
        domains: dict[str, list[bool]] = defaultdict(list)
        for row, answered in zip(self.valid_rows, right, strict=True):
            domains[row["file"]].append(answered)
        now = {domain: sum(answers) / len(answers) for domain, answers in sorted(domains.items())}
        # Rows of open groups are not drawn: they would have to be kept apart from what the batches hold.
        grouped = {row for members in self.open.values() for row in members}
        pools = {
            domain: [i for i, row in enumerate(self.rows) if row["file"] == domain and i not in grouped]
            for domain in fallen(self.accuracies, now, settings["drop"])
        }
        pools = {domain: pool for domain, pool in pools.items() if pool}
        replaced: dict[int, int] = {}
        if pools:
            end = min(first + settings["every"] * self.step_rows, len(self.order))
            starts = range(first, end, self.batch_rows)
            batches = [range(start, min(start + self.batch_rows, end)) for start in starts]
            random = Random(f"{self.settings['seed']}:resample:{step}")
            replaced = resample(batches, settings["share"], list(pools.values()), random)
        for slot, row in replaced.items():
            self.order[slot] = row
        self.fixed += replaced
        self.accuracies = now
        self._enter(step, "resample", accuracies=now, resampled=list(pools), replaced=len(replaced))

    def _kept_apart(self, first: int) -> list[int]:
        groups = {row: group for group, members in self.open.items() for row in members}
        random = Random(f"{self.settings['seed']}:buckets:{first}")
        return keep_apart(self.order, first, len(self.rows), self.step_rows, groups, self.fixed, random)

    def _lay(self) -> None:
        """Cut the order into the plan's batches."""
        for index, batch in enumerate(self.batches):
            batch[:] = self.order[index * self.batch_rows : (index + 1) * self.batch_rows]

    def _enter(self, step: int, kind: str, **values) -> None:
        """A line of the log; the keys are the same for both kinds."""
        nothing = {"accuracies": {}, "resampled": [], "replaced": 0}
        left_out = self.left_out if kind == "resample" else []
        self.log.append(
            {"step": step, "kind": kind, "groups_open": len(self.open), **nothing, **values, "left_out": left_out}
        )

    def state(self) -> dict:
        """What a resumed run needs to deal on, as JSON."""
        keys = ("order", "fixed", "open", "accuracies", "log")
        return {key: getattr(self, key) for key in keys}

    def restore(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, value)
        self._lay()
