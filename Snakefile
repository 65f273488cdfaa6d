# Temper: from raw rows to a report. README.md has the words and the shape, params.yaml every setting, workloads/ what
# one workload needs: `--configfile` names one, workloads/fable.yaml is the default.
from snakemake.utils import min_version

min_version("9.20")


report: "rules/report.rst"


include: "rules/common.smk"
include: "rules/download.smk"
include: "rules/world.smk"
include: "rules/data.smk"
include: "rules/preflight.smk"
include: "rules/recipes.smk"
include: "rules/reinforcement.smk"
include: "rules/distillation.smk"
include: "rules/evaluation.smk"
include: "rules/stability.smk"
include: "rules/diagnosis.smk"
include: "rules/report.smk"
include: "rules/delivery.smk"


wildcard_constraints:
    workload=re.escape(GRAPH.params["workload"]),
    study="|".join(GRAPH.params["studies"]),


# On a cluster these run where Snakemake does: seconds of one core, or, for the first, a network.
localrules:
    download,
    score_dirt,
    attribute,
    score_causes,
    treat,
    report,


rule all:
    default_target: True
    input:
        expand("reports/{workload}/index.html", workload=GRAPH.params["workload"]),


# One target per study: its checkpoints, measured, and what else the study asks. `snakemake foundation`
for study in GRAPH.params["studies"]:

    rule:
        name:
            study
        input:
            evaluations(study),
            findings(study),


if workflow.is_main_process:
    targets.check(workflow, GRAPH, targets.asked())
