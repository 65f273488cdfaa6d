# What reinforcement learning needs to know before it starts, and what it did to the answers that a checkpoint can find.


rule difficulty:
    input:
        rows="results/{workload}/data/{dataset}/split/manifest.json",
        start=lambda wildcards: checkpoint(wildcards.name),
    output:
        manifest="results/{workload}/difficulty/{dataset}/{name}/manifest.json",
    log:
        "logs/{workload}/difficulty/{dataset}/{name}.log",
    benchmark:
        "benchmarks/{workload}/difficulty/{dataset}/{name}.tsv"
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("difficulty"),
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        start=lambda wildcards: GRAPH.folder(wildcards.name),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.reinforcement.difficulty --settings {params.settings:q} --input {params.rows:q} --model {params.start:q}"
        " --out {params.out:q} &> {log:q}"


rule gate:
    input:
        rows=lambda wildcards: f"{GRAPH.difficulty(wildcards.node)}/manifest.json",
        start=parents,
        judge=judge,
    output:
        manifest="results/{workload}/gate/{node}/manifest.json",
    log:
        "logs/{workload}/gate/{node}.log",
    benchmark:
        "benchmarks/{workload}/gate/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.gated()),
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("gate"),
        train=lambda wildcards: f"{GRAPH.difficulty(wildcards.node)}/train.jsonl",
        samples=lambda wildcards: f"{GRAPH.difficulty(wildcards.node)}/samples.jsonl",
        start=parent_folders,
        reward_model=reward_model,
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.reinforcement.gate --settings {params.settings:q} --data {params.train:q} --samples {params.samples:q}"
        " --start {params.start:q} {params.reward_model:q} --out {params.out:q} &> {log:q}"


rule explore:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.name),
        tasks=edges(GRAPH.evaluation_edges()),
    output:
        manifest="results/{workload}/explore/{name}/manifest.json",
    log:
        "logs/{workload}/explore/{name}.log",
    benchmark:
        "benchmarks/{workload}/explore/{name}.tsv"
    wildcard_constraints:
        name=only(GRAPH.explored()),
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("explore"),
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.name),
        tasks="results/{workload}/world/eval",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.evaluation.explore --settings {params.settings:q} --checkpoint {params.checkpoint:q} --name {wildcards.name:q}"
        " --tasks-dir {params.tasks:q} --out {params.out:q} &> {log:q}"
