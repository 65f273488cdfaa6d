# What reinforcement learning needs to know before it starts, and what it did to the answers that a checkpoint can find.


rule difficulty:
    input:
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        start=lambda wildcards: checkpoint(wildcards.name),
        code=dag.code_files("steps.difficulty"),
    output:
        train="results/{workload}/difficulty/{dataset}/{name}/train.jsonl",
        samples="results/{workload}/difficulty/{dataset}/{name}/samples.jsonl",
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
        settings=sampled("difficulty"),
        start=lambda wildcards: GRAPH.folder(wildcards.name),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.difficulty --settings {params.settings:q} --input {input.rows} --model {params.start}"
        " --out {params.out} &> {log}"


rule gate:
    input:
        train=lambda wildcards: f"{GRAPH.difficulty(wildcards.node)}/train.jsonl",
        samples=lambda wildcards: f"{GRAPH.difficulty(wildcards.node)}/samples.jsonl",
        start=parents,
        rewards=reward_files,
        code=dag.code_files("steps.gate"),
    output:
        prompts="results/{workload}/gate/{node}/prompts.jsonl",
        table="results/{workload}/gate/{node}/gate.csv",
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
        settings=gate_settings,
        start=parent_folders,
        reward_model=reward_model,
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.gate --settings {params.settings:q} --data {input.train} --samples {input.samples}"
        " --start {params.start} {params.reward_model} --out {params.out} &> {log}"


rule explore:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.name),
        tasks=GRAPH.evaluation_edges(),
        templates=sorted(str(path) for path in Path("tasks").iterdir()),
        code=dag.code_files("steps.explore"),
    output:
        explore="results/{workload}/explore/{name}/explore.json",
        answers="results/{workload}/explore/{name}/items.jsonl",
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
        settings=explore_settings,
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.name),
        tasks="results/{workload}/world/eval",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.explore --settings {params.settings:q} --checkpoint {params.checkpoint} --name {wildcards.name}"
        " --tasks-dir {params.tasks} --out {params.out} &> {log}"
