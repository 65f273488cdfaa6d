"""What the papers of GRPO's self-distilled kin found, as data.

Of RLSD and RLRT, tables were read in secondary notes only.
"""

from steps.report.claims import Claim

SDPO, SRPO, RLSD, RLRT = "arXiv:2601.20802", "arXiv:2604.02288", "arXiv:2604.03128", "arXiv:2605.10781"
ARENA = "PEFT-Arena, arXiv:2605.28819, poster"
_NOTES = "as secondary notes report it"
# The budget of a run of reinforcement learning: tokens are an outcome, as lengths are.
_EQUAL = ("steps", "rates tried")
_SAMPLED = "pass@1 on the target, sampled, paired by item and seed, of runs with equal rewards, rows and steps"
_AIME = "Qwen3-4B-Base, AIME 24 / 25 / 26:"
_CONTROL = "none; the question that the control asks."


def _above(better: str, worse: str, published: str, paper: str) -> Claim:
    name = f"above_{better}_{worse}".lower()
    return Claim(name, f"{better} scores above {worse}.", published, paper, f"both methods; {_SAMPLED}", _EQUAL)


CLAIMS = (
    _above("SDPO", "GRPO", "70.2 against 66.6 %, all tasks without feedback.", f"{SDPO}, section 1"),
    _above(
        "SRPO", "GRPO", "77.4 against 74.0 %, Qwen3-8B, mean of five tasks after 10 hours.", f"{SRPO}, main results"
    ),
    _above("SRPO", "SDPO", "77.4 against 71.1 %, the same.", f"{SRPO}, main results"),
    _above("RLSD", "GRPO", f"56.18 against 53.86 %, mean of five benchmarks, {_NOTES}.", RLSD),
    _above("RLSD", "SDPO", f"56.18 against 52.74 %, mean of five benchmarks, {_NOTES}.", RLSD),
    _above("RLRT", "GRPO", f"{_AIME} 22.5 / 18.5 / 19.8 against 15.0 / 14.4 / 12.3 %, {_NOTES}.", RLRT),
    _above("RLRT", "RLSD", f"{_AIME} 22.5 / 18.5 / 19.8 against 13.3 / 11.2 / 9.0 %, {_NOTES}.", RLRT),
    Claim(
        "rlrt_size", "RLRT scores 18 % higher than GRPO, relatively.",
        f"+18 % over GRPO, Qwen3-4B-Base, mean of six benchmarks, {_NOTES}; whether relative is not said.", RLRT,
        f"RLRT and GRPO; the ratio less 1, {_SAMPLED}", _EQUAL,
    ),
    Claim(
        "shorter", "SDPO answers in fewer tokens than GRPO.", "255.8 against 820.8 tokens, 3.2 times fewer.",
        f"{SDPO}, section 1", "both methods; mean tokens of sampled answers, by seed", _EQUAL,
    ),
    Claim(
        "forgets_no_more", "SDPO forgets no more than GRPO.",
        "IFEval 83.9 → 83.2 %, GRPO 82.2 %; mean of held-out tasks 43.5 → 42.4 %, GRPO 41.8 %.",
        f"{SDPO}, experiment on forgetting", "both methods; the general score, greedy, paired", _EQUAL,
    ),
    Claim(
        "breaks_down", "SDPO breaks down.", f"The SDPO baseline collapsed within some 20 steps, {_NOTES}.", RLRT,
        "SDPO and its start; pass@1 on the target and the flags of its runs",
    ),
    Claim(
        "ungated", "Without its gate on right answers, RLRT diverges.",
        f"It follows and then diverges at about step 40: length and entropy blow up, {_NOTES}.", RLRT,
        "RLRT with and without the gate, which no setting takes away here; flags of runs",
    ),
    Claim(
        "routed", "Routing samples beats mixing both advantages.",
        "Mixed with λ = 0.9 against routed: +0.7, −2.5, −3.3 points after 1, 5, 10 hours.", f"{SRPO}, ablation",
        "SRPO and a mixture of both advantages, which is no method here",
    ),
    Claim(
        "entropy_weight", "The entropy weight of SRPO's distilled tokens adds to its score.",
        "+0.4, +0.7, +1.8 points after 1, 5, 10 hours.", f"{SRPO}, ablation",
        "SRPO with beta 1 and with beta 0; pass@1 on the target", _EQUAL,
    ),
    Claim(
        "faded", "A weight that fades to plain GRPO serves RLSD.",
        f"λ from 0.5 to 0 over the first 50 steps is the default; no number, {_NOTES}.", RLSD,
        "RLSD with fading and with constant lambda; pass@1 on the target", _EQUAL,
    ),
    Claim(
        "sdpo_teacher", "A moving average as SDPO's teacher beats the start as its teacher.",
        "Best 49.3 against 48.8, average 45.3 against 44.4, on LiveCodeBench.", f"{SDPO}, ablation of the teacher",
        "SDPO with both teachers; pass@1 on the target", _EQUAL,
    ),
    Claim(
        "reach", "GRPO raises pass@1 and lowers pass@k of many samples.",
        "After longer GRPO: LoRA pass@1 +2.3, pass@64 −2.9 points; OFT −0.1 and −1.5.", ARENA,
        "GRPO and its start; pass@k of all samples, paired by item",
    ),
    Claim(
        "gains_more", "RL gains more on the target than SFT with the same tokens.", _CONTROL, "",
        "a run of RL and one of supervised fine-tuning from the same start; pass@1 on the target", ("tokens seen",),
    ),
    Claim(
        "forgets_less", "RL forgets less than SFT with the same tokens.", _CONTROL, "",
        "a run of RL and one of supervised fine-tuning from the same start; the general score", ("tokens seen",),
    ),
)  # fmt: skip
