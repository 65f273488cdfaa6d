# Whether a model is what the stages take it for, and whether the trainings will fit, before anything else is made:
# `snakemake check_models`, `snakemake preflight`.
from steps.training import memory

USED_MODELS = checks.conversing(GRAPH)


localrules:
    check_models,
    preflight,


# Before anything that rests on the model: its manifest is among the model's edges (Graph.edges).
rule check_model:
    input:
        model=lambda wildcards: GRAPH.made(wildcards.model),
    output:
        manifest="results/{workload}/check_model/{model}/manifest.json",
    log:
        "logs/{workload}/check_model/{model}.log",
    benchmark:
        "benchmarks/{workload}/check_model/{model}.tsv"
    wildcard_constraints:
        model=only(GRAPH.params["models"]),
    priority: 2
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("check_model"),
        model=lambda wildcards: GRAPH.folder(wildcards.model),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.preflight.check_model --settings {params.settings:q} --model {params.model:q} --out {params.out:q} &> {log:q}"


# The target: a table for each model, of what was found and how it will be treated.
rule check_models:
    input:
        found=[f"{GRAPH.check(model)}/manifest.json" for model in USED_MODELS],
    log:
        f"logs/{GRAPH.params['workload']}/check_models.log",
    conda:
        "../environment.yaml"
    params:
        tables=[f"{GRAPH.check(model)}/check.md" for model in USED_MODELS],
    shell:
        "cat {params.tables:q} | tee {log:q}"


rule preflight_node:
    input:
        models=preflight_models,
    output:
        manifest="results/{workload}/preflight/{node}/manifest.json",
    log:
        "logs/{workload}/preflight/{node}.log",
    benchmark:
        "benchmarks/{workload}/preflight/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.rehearsals.values()),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=settings("preflight_node"),
        models=preflight_folders,
        work="work/{workload}/preflight/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.preflight.preflight --settings {params.settings:q} --kind {resources.launch:q}"
        " --processes {resources.processes:q} {params.models:q} --work {params.work:q} --out {params.out:q} &> {log:q}"


# The target: every training of the workload, and the table of what was found.
rule preflight:
    input:
        found=[f"{GRAPH.results}/preflight/{node}/manifest.json" for node in GRAPH.rehearsals.values()],
    log:
        f"logs/{GRAPH.params['workload']}/preflight.log",
    conda:
        "../environment.yaml"
    params:
        head=memory.HEAD,
        rows=[f"{GRAPH.results}/preflight/{node}/row.txt" for node in GRAPH.rehearsals.values()],
    shell:
        # Without files cat would wait for input.
        "{{ printf '%s\\n' {params.head:q}; cat /dev/null {params.rows:q}; }} | tee {log:q}"
