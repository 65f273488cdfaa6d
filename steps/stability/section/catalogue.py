"""What PEFT-Arena found, as data: each claim with the numbers that its table, page and poster have."""

from functools import cache
from pathlib import Path

from steps.report.claims import Claim
from steps.report.language import spoken
from steps.report.sentences import Sentences
from steps.stability.section import published as peft_arena

say = Sentences(Path(__file__).parent)

FRUGAL = ("vera", "ia3")
# An arena is one model, one data set and one number of tokens.
_EQUAL = ("tokens seen", "steps", "rates tried")
_PAIR = "both adapters, trained alike; the score of that axis, paired"
_ALL = "that adapter and two others, trained alike; the score of that axis, paired, against each"
_OVER = "checkpoints of six recipes with geometry; the rank correlation, by a bootstrap of recipes"
_PATH = "a path with points between and its end, on the path's own questions"


def catalogue() -> tuple[Claim, ...]:
    return _catalogue(spoken())


@cache
def _catalogue(language: str) -> tuple[Claim, ...]:
    """In the language that is spoken."""
    kinds = {kind: peft_arena.of_kind(kind) for kind in peft_arena.REPRESENTS}
    methods = peft_arena.methods()
    ranks = {name: rank for name, (_, rank) in peft_arena.CORRELATIONS.items()}

    def claim(name: str, text: str, published: str, decides: str, equal: tuple[str, ...] = ()) -> Claim:
        return Claim(name, text, published.replace(" -", " −"), peft_arena.CITATION, decides, equal)

    def forgotten(*names: str) -> list[tuple[str, float]]:
        return [(kinds[name].name, kinds[name].forgetting) for name in names]

    def traded(*names: str) -> list[tuple[str, float]]:
        return [(kinds[name].name, kinds[name].gain - kinds[name].forgetting) for name in names]

    def correlated(name: str, text: str) -> Claim:
        return claim(name, text, say("published_ranks", ranks=[ranks[name]]), _OVER)

    rest = min(method.forgetting for method in methods.values() if method.kind not in FRUGAL)
    gains = [(name, methods[name].gain) for name in ("VeRA r256", "IA3", "KeepLoRA r8")]
    drifts = [ranks["csd_un_general"], ranks["csd_rel_general"]]
    (target, general), (end_target, end_general) = peft_arena.REWOUND, peft_arena.PATHS["end"]
    rewound = {"target": target, "general": general, "end_target": end_target, "end_general": end_general}
    halfway = dict(zip(("target", "general"), peft_arena.PATHS["cayley"], strict=True))
    halfway |= dict(zip(("straight_target", "straight_general"), peft_arena.PATHS["dense"], strict=True))
    families = {kind: peft_arena.family_forgetting(kind) for kind in ("oft", "lora")}
    return (
        claim("oft_keeps", "OFT keeps more of the general score than LoRA.", say("published_families", **families),
              _PAIR, _EQUAL),
        claim("oft_trade", "OFT has the better sum of gain and forgetting than LoRA.",
              say("published_trade", methods=traded("oft", "lora")),
              "both adapters, trained alike; the mean of both axes, paired", _EQUAL),
        claim("pissa_forgets", "PiSSA forgets most.",
              say("published_forgetting", methods=forgotten("pissa", "full", "lora")), _ALL, _EQUAL),
        claim("full_gains", "Full fine-tuning gains most on the target.",
              say("published_gains", full=kinds["full"].gain, next=methods["OFT b128"].gain), _ALL, _EQUAL),
        claim("full_forgets", "Full fine-tuning forgets more than LoRA.",
              say("published_forgetting", methods=forgotten("full", "lora")), _PAIR, _EQUAL),
        claim("frugal_keep", "VeRA and IA3 keep more than all others.",
              say("published_frugal", methods=forgotten(*FRUGAL), rest=rest), _ALL, _EQUAL),
        claim("frugal_gain", "VeRA and IA3 gain less than all others.",
              say("published_frugal_gains", methods=gains, pissa=kinds["pissa"].gain), _ALL, _EQUAL),
        claim("milora_alike", "MiLoRA forgets about as much as LoRA.",
              say("published_pair", first=forgotten("milora")[0], second=forgotten("lora")[0]), _PAIR, _EQUAL),
        claim("two_drifts",
              "Of general drift, the update-normalised kind goes with forgetting more than the relative one.",
              say("published_ranks", ranks=drifts), _OVER),
        correlated("csd_rel_general", "Drift on general prompts goes with forgetting."),
        correlated("procrustes_general", "The Procrustes residual goes with forgetting."),
        correlated("gram_general", "Gram distortion goes with forgetting."),
        correlated("cka_general", "Linear CKA falls with forgetting."),
        correlated("csd_rel_target", "Drift on target prompts does not predict the target gain."),
        claim("overshoot", "Training overshoots: before its end, the path has more general and no less target score.",
              say("published_rewound", **rewound), _PATH),
        claim("rotations",
              "Halfway to an OFT checkpoint, the path of rotations beats the straight one at equal alpha.",
              say("published_rotations", **halfway), "both paths to one checkpoint, on the paths' own questions"),
        claim("rewinds", "Rewinding layers to the least of them ends like rewinding all alike.",
              say("published_rewinds", kinds=peft_arena.REWINDS), "paths of both kinds to one checkpoint"),
    )  # fmt: skip
