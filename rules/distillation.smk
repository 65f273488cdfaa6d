# What a teacher writes for its students and says of it, and whether a student will gain from it.


rule generate:
    input:
        rows=lambda wildcards: GRAPH.edge(GRAPH.taught_rows(wildcards.dataset)),
        teacher=lambda wildcards: checkpoint(wildcards.name),
        evaluation=edges(GRAPH.evaluation_edges()),
    output:
        manifest="results/{workload}/generate/{dataset}/{name}/manifest.json",
    log:
        "logs/{workload}/generate/{dataset}/{name}.log",
    benchmark:
        "benchmarks/{workload}/generate/{dataset}/{name}.tsv"
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("generate"),
        rows=lambda wildcards: GRAPH.taught_rows(wildcards.dataset),
        teacher=lambda wildcards: GRAPH.folder(wildcards.name),
        evaluation=lambda wildcards: GRAPH.evaluation_files(),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.distillation.generate --settings {params.settings:q} --input {params.rows:q} --teacher {params.teacher:q}"
        " --eval {params.evaluation:q} --out {params.out:q} &> {log:q}"


rule logprobs:
    input:
        rows=rules.generate.output.manifest,
        teacher=lambda wildcards: checkpoint(wildcards.name),
    output:
        manifest="results/{workload}/logprobs/{dataset}/{name}/manifest.json",
    log:
        "logs/{workload}/logprobs/{dataset}/{name}.log",
    benchmark:
        "benchmarks/{workload}/logprobs/{dataset}/{name}.tsv"
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("logprobs"),
        rows="results/{workload}/generate/{dataset}/{name}/train.jsonl",
        teacher=lambda wildcards: GRAPH.folder(wildcards.name),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.distillation.logprobs --settings {params.settings:q} --input {params.rows:q} --teacher {params.teacher:q}"
        " --out {params.out:q} &> {log:q}"


rule forecast:
    input:
        rows="results/{workload}/data/{dataset}/split/manifest.json",
        student=lambda wildcards: checkpoint(wildcards.name),
        teacher=lambda wildcards: checkpoint(wildcards.teacher),
    output:
        manifest="results/{workload}/forecast/{dataset}/{name}/{teacher}/manifest.json",
    log:
        "logs/{workload}/forecast/{dataset}/{name}/{teacher}.log",
    benchmark:
        "benchmarks/{workload}/forecast/{dataset}/{name}/{teacher}.tsv"
    # Before the trainings that it is about.
    priority: 1
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("forecast"),
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        student=lambda wildcards: GRAPH.folder(wildcards.name),
        teacher=lambda wildcards: GRAPH.folder(wildcards.teacher),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.distillation.forecast --settings {params.settings:q} --student {params.student:q} --teacher {params.teacher:q}"
        " --data {params.rows:q} --out {params.out:q} &> {log:q}"
