"""What the paper of incomplete learning found (Xue et al., ACL 2026), as data, and what treatments promise here."""

from steps.report.claims import Claim

PAPER = "Xue et al., ACL 2026"
# Fleiss' kappa from which agreement is called substantial (Landis and Koch 1977, doi:10.2307/2529310).
SUBSTANTIAL = 0.6
# Epochs that count as many, times those of the diagnosed arm.
MANY_EPOCHS = 5
_TREATED = "the treatment and the same on rows drawn at random, with equal tokens; the target score, paired"


def _treatment(cause: str, text: str, published: str, place: str) -> Claim:
    return Claim(f"target_{cause}", text, published, f"{PAPER}, {place}", _TREATED)


CLAIMS = (
    Claim(
        "prevalence", "About 15 % of the rows are left unlearned.", "15.3 ± 2.1 % over ten data sets.",
        f"{PAPER}, section 4", "data sets of people, in which nobody put what is not learned",
    ),
    Claim(
        "stable", "The same rows are left unlearned over seeds and sampling.", "The set is stable; no number.",
        f"{PAPER}, section 3.1", "the diagnosed recipe over three seeds; Fleiss' kappa over rows, at least substantial",
    ),
    Claim(
        "more_epochs", "Many more epochs hardly raise the target score.",
        "10 in place of 2 epochs: +1.2 points on MedQA, +1.0 LegalBench, +1.4 TechFAQ, +1.1 FinanceBench.",
        f"{PAPER}, table 4",
        "the diagnosed recipe and the same for five times as many epochs; the target score, no more than 2 points"
        " higher",
    ),
    Claim(
        "cpt_costs", "Continued pre-training costs general score.",
        "MMLU −3.5, AGIEval −2.9, BBH −1.2, GPQA −6.8, NQ −4.3, multilingual MMLU −8.1 %.", f"{PAPER}, table 14",
        "a checkpoint of continued pre-training and the model before it; the general score, paired",
    ),
    _treatment(
        "missing_knowledge", "Continued pre-training on missing knowledge raises the target score.",
        "MedQA +8.3, LegalBench +7.9, TechFAQ +8.7, FinanceBench +8.0 points over 2 epochs of SFT.", "table 4",
    ),
    _treatment(
        "base_conflict", "Continued pre-training on conflicts with the base raises the target score.",
        "Qwen-7B: ARC 68.1 → 70.9, CommonsenseQA 74.5 → 76.9, SocialIQA 70.3 → 72.2, MedMCQA 61.2 → 63.7.", "table 1",
    ),
    _treatment(
        "data_conflict", "Taking out and bucketing conflicts within the data raises the target score.",
        "Qwen-7B 82.3 → 85.1.", "table 2",
    ),
    _treatment(
        "left_side_forgetting", "A shuffle with dynamic resampling raises the target score.", "Qwen-7B 78.5 → 79.8.",
        "table 2",
    ),
    _treatment(
        "insufficient_optimisation", "Progressive epochs raise the target score.", "Qwen-7B 88.2 → 90.1.", "table 2",
    ),
)  # fmt: skip
