"""What positions.csv of a run says by place in the answer, over the first or the last tenth of the steps."""

from dataclasses import dataclass, field
from statistics import fmean

from steps.report.candidates import Candidate
from steps.report.logs import END

# The end of the answer is where still so large a share of the responses goes on.
STILL_WRITING = 0.1


@dataclass
class Positions:
    """What two models have in common, by place in the response."""

    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # by node

    def by_place(self, candidate: Candidate, column: str, end: str) -> list[tuple[int, int, float]]:
        """(begin, end, mean over seeds) by place in the answer. Places that few responses come to are left out.

        Args:
            end: which tenth of the steps, `first` or `last`.
        """
        seeds = [_frequent(self._of_node(m.node, column, end)) for m in candidate.members]
        places = sorted({place for seed in seeds for place in seed})
        return [(*place, fmean(seed[place] for seed in seeds if place in seed)) for place in places]

    def at_place(self, candidate: Candidate, column: str, place: str, end: str) -> list[float]:
        """Seed by seed, a column at the `begin` or the `end` of the answer."""
        values = []
        for member in candidate.members:
            places = list(_frequent(self._of_node(member.node, column, end)).values())
            if places:
                values.append(places[0 if place == "begin" else -1])
        return values

    def _of_node(self, node: str, column: str, end: str) -> dict[tuple[int, int], tuple[float, float]]:
        """(begin, end) of a place in the answer → (token-weighted mean, tokens) of one run."""
        rows = self.rows.get(node, [])
        steps = sorted({row["step"] for row in rows})
        window = max(1, round(END * len(steps)))
        chosen = set(steps[:window] if end == "first" else steps[-window:])
        sums: dict[tuple[int, int], list[float]] = {}
        for row in rows:
            if row["step"] in chosen and row.get(column) is not None and row["tokens"]:
                total = sums.setdefault((int(row["begin"]), int(row["end"])), [0.0, 0.0])
                total[0] += row["tokens"] * row[column]
                total[1] += row["tokens"]
        return {place: (total / tokens, tokens) for place, (total, tokens) in sorted(sums.items())}


def _frequent(places: dict[tuple[int, int], tuple[float, float]]) -> dict[tuple[int, int], float]:
    most = max((tokens for _, tokens in places.values()), default=0.0)
    return {place: mean for place, (mean, tokens) in places.items() if tokens >= STILL_WRITING * most}
