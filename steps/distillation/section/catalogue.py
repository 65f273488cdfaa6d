"""What the papers of on-policy distillation found, as data.

"Rethinking On-Policy Distillation" (arXiv:2604.13016) and the answers of its authors' repository (thunlp/OPD), Thinking
Machines' "On-Policy Distillation" (27 October 2025) and MOPD (arXiv:2606.30406). Of the papers, tables were read in
secondary notes only.
"""

from steps.report.claims import Claim

RETHINKING, MACHINES, MOPD = "arXiv:2604.13016", "Thinking Machines, 27 October 2025", "arXiv:2606.30406"
AUTHORS = "thunlp/OPD, its authors' answers"
# The steps after which a student of its own start has had the time to fall back to it.
FALLS_BACK = 100
# What both sides give the tokens that they have in common, in a run that succeeds.
MASS = 0.97
# So many times as much of a teacher is recovered after its RL as before, there.
TIMES = 3

# Runs that differ from the reference in one thing have its budget.
_EQUAL = ("steps", "rates tried")
# Another loss on as many responses of the same length.
_LOSS = ("tokens written", *_EQUAL)
_ONE_THING = "the reference and a run that differs in this alone; their scores, paired by item and seed"
_OVER_RUNS = "three clusters of successful runs that share no start; ends of their logs"
_DOSES = "budgets of both methods from one start, on a grid; what each spends to reach the level of the other"
_DEFAULT = "Student, teacher, union and overlap gave no clear difference; no number."
_ALIKE = "The sampled token, top-4, top-16 and top-64 end alike."
_WITHIN = "97 to 99 % on both sides all through training."
_REWARD_BACK = "7 to 10 times fewer steps, 50 to 100 times less compute, back from a teacher made by RL."
_CONDITIONS, _MECHANISM, _RECIPE = (
    f"{RETHINKING}, conditions of success", f"{RETHINKING}, mechanism", f"{RETHINKING}, recipe",
)  # fmt: skip

CLAIMS = (
    # --- teachers ---
    Claim(
        "after_rl_over_larger",
        "A teacher of the student's size after RL is recovered better than a larger one without.",
        "Recovered by Qwen3-1.7B: 58.6 % from Qwen3-4B after RL, 15.6 % from Qwen3-4B before.", _CONDITIONS,
        "teachers of the student's size after RL and larger without; recovered shares of the gap",
        _EQUAL,
    ),
    Claim(
        "same_pipeline", "A larger teacher of the student's own pipeline teaches it nothing.",
        "R1-Distill-1.5B from R1-Distill-7B: 5.3 % recovered; all measures stand still.", _CONDITIONS,
        "a larger teacher of the same pipeline without RL; the change of the student's score, no more than 2 points",
    ),
    Claim(
        "larger_after_rl", "A larger teacher is recovered better after RL than before.",
        "R1-Distill-1.5B: 16.9 % of Skywork-OR1-Math-7B, 5.3 % of R1-Distill-7B before its RL. "
        "Qwen3-1.7B: 58.6 and 15.6 %.", _CONDITIONS,
        "a larger teacher after RL and itself before; recovered shares of the gap", _EQUAL,
    ),
    Claim(
        "times_after_rl", f"A teacher after RL is recovered {TIMES} times as well as before.",
        "58.6 against 15.6 % and 16.9 against 5.3 %: 3.8 and 3.2 times.", _CONDITIONS,
        "a larger teacher after RL and itself before, both with a gap to the student; the ratio of recovered shares",
        _EQUAL,
    ),
    Claim(
        "other_style", "A teacher of another style is recovered worse than one of the student's.",
        "Of two teachers with similar scores, that with the higher initial overlap ends better; no number.",
        _CONDITIONS, "teachers of the student's size after RL, of its style and of another; recovered shares", _EQUAL,
    ),
    Claim(
        "overlap_outcome", "Of two teachers with equal scores, that with the higher initial overlap ends better.",
        "A teacher after GRPO has more initial overlap and a better end than one of like score; no number.",
        _CONDITIONS, "two teachers whose scores are alike and whose forecast overlaps differ; the student's scores",
        _EQUAL,
    ),
    # --- the loss ---
    Claim("support_sampled", "The sampled token alone ends like top-k.", _ALIKE, f"{RETHINKING}, support",
          _ONE_THING, _LOSS),
    Claim(
        "top1", "Top-1 is worse than top-k.",
        "Only top-1 is worse: 0.446 / 0.310 / 0.772, top-4 0.473 / 0.331 / 0.793 on three benchmarks.",
        f"{RETHINKING}, support", _ONE_THING, _LOSS,
    ),
    Claim("support_top_k", "Another k ends like the usual one.", _ALIKE, f"{RETHINKING}, support", _ONE_THING, _LOSS),
    Claim("support_full", "The full vocabulary ends like top-k.", _ALIKE, f"{RETHINKING}, support", _ONE_THING, _LOSS),
    Claim("side", "Another side's top-k ends like the student's.", _DEFAULT, AUTHORS, _ONE_THING, _LOSS),
    Claim(
        "overlap", "The overlap of both top-k alone ends like the student's top-k.",
        "Training on the overlap alone is about as good as on the student's top-k, on three benchmarks.",
        f"{RETHINKING}, ablation", _ONE_THING, _LOSS,
    ),
    Claim(
        "non_overlap", "Training on what is not in the overlap is worse.",
        "Clearly worse; the overlap dips and partly recovers; no number.", f"{RETHINKING}, ablation",
        "a support of the symmetric difference, which no setting has here; scores, paired",
    ),
    Claim(
        "gradient", "Nearly all of the gradient lies on the overlap.",
        "Overlap alone about as good as the student's top-k; the 97 to 99 % there are of probability.",
        f"{RETHINKING}, ablation", "the norm of the gradient on the overlap and in all, which no log has here",
    ),
    # --- length and prompts ---
    Claim(
        "short", "Distilling the first tokens alone teaches less than all of them.",
        "Of caps from 0.5K to 15K tokens, 0.5K and 1K teach too little; 3K and 7K are best.", f"{RETHINKING}, length",
        _ONE_THING, _EQUAL,
    ),
    Claim(
        "long", "Beyond a length, longer responses teach less.",
        "10K and 15K tokens: a plateau or a fall, with late collapses of the overlap.", f"{RETHINKING}, length",
        "caps on both sides of the best length; scores, paired: responses end before any cap here", _EQUAL,
    ),
    Claim(
        "prompts", "Prompts that the teacher was trained on teach more than others.",
        "DAPO-17K, which the teacher had seen, against as many of DeepMath: better accuracy; no number.", _RECIPE,
        _ONE_THING, _EQUAL,
    ),
    Claim(
        "entropy", "A share of other prompts keeps the student's entropy up.",
        "The student's entropy falls on the teacher's own prompts, so that others should be mixed in; no number.",
        _RECIPE, "the reference and a run on a mixture of prompts; entropy in the last tenth of the steps, by seed",
        _EQUAL,
    ),
    # --- starts ---
    Claim(
        "cold_overlap", "A cold start on the teacher's responses raises the initial overlap.",
        "Higher initial overlap after 200K responses of Qwen3-4B; no number.", _RECIPE,
        "a run from a cold start and the same without; the forecast overlap", ),
    Claim(
        "cold_score", "A cold start on the teacher's responses raises the final score.",
        "Smoother and with a higher ceiling; no number.", _RECIPE,
        "a run from a cold start and the same without; their scores, paired", _EQUAL,
    ),
    Claim(
        "reverse", "A student after RL falls back to its own start when that teaches it.",
        "JustRL-1.5B falls back to R1-Distill-1.5B, which it was made of.", f"{RETHINKING}, reverse distillation",
        "a student after RL that its start teaches; its score less the teacher's, no more than 2 points",
        least={"steps": FALLS_BACK},
    ),
    # --- what success looks like ---
    Claim("success_overlap", "In runs that succeed the overlap rises.",
          "72 % → above 91 %, JustRL-1.5B → R1-Distill-1.5B.", _MECHANISM, _OVER_RUNS),
    Claim("success_entropy_gap", "In runs that succeed the entropy gap shrinks.", "It shrinks; no number.", _MECHANISM,
          _OVER_RUNS),
    Claim("success_overlap_advantage", "In runs that succeed the advantage on the overlap goes to 0.", "It goes to 0.",
          _MECHANISM, _OVER_RUNS),
    Claim("mass_student",
          f"In runs that succeed the overlap has at least {100 * MASS:.0f} % of the student's probability.", _WITHIN,
          f"{RETHINKING}, appendix B.1", _OVER_RUNS),
    Claim("mass_teacher",
          f"In runs that succeed the overlap has at least {100 * MASS:.0f} % of the teacher's probability.", _WITHIN,
          f"{RETHINKING}, appendix B.1", _OVER_RUNS),
    # --- other methods ---
    Claim("cheaper_generated", "On-policy distillation comes to the score of RL with fewer generated tokens than RL.",
          _REWARD_BACK, MACHINES, _DOSES),
    Claim("cheaper_steps", "On-policy distillation comes to the score of RL in fewer steps than RL.", _REWARD_BACK,
          MACHINES, _DOSES),
    Claim(
        "off_policy", "On-policy distillation ends above off-policy distillation.",
        "Normalised mean 0.937 against 0.824 of off-policy fine-tuning, several teachers, Qwen3-30B-A3B.", MOPD,
        "both from one start, with one teacher, on the same prompts; their scores, paired", ("tokens seen", *_EQUAL),
    ),
    Claim(
        "original", "The original model as the teacher brings back more than half of what was forgotten.",
        "IFEval 85 → 79 % by training on documents, 83 % after distillation from the original: 67 %.", MACHINES,
        "a fine-tuned model that its root teaches; the share of the general score that comes back",
    ),
    Claim(
        "many_off_policy",
        "The on-policy student of several teachers ends above the off-policy one, in the mean of both axes.",
        "Normalised mean 0.937, off-policy fine-tuning 0.824.", MOPD,
        "both students of the same teachers; the mean of both axes, paired", ("tokens seen", *_EQUAL),
    ),
    Claim(
        "many_merge",
        "The on-policy student of several teachers beats the best merge of them, in the mean of both axes.",
        "Normalised mean 0.937; task arithmetic 0.857, averaging 0.328.", MOPD,
        "the student and merges of its teachers; the mean of both axes, paired",
    ),
    Claim(
        "many_teachers", "The student of several teachers ends as high as the teacher of each axis.",
        "Normalised mean 0.937, where 1 is the teacher of each.", MOPD,
        "the student and the teacher of each axis; both scores, no more than 2 points less",
    ),
)  # fmt: skip
