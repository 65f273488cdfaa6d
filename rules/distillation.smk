# What a teacher writes for its students and says of it, and whether a student will gain from it.


rule generate:
    input:
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        teacher=lambda wildcards: checkpoint(wildcards.name),
        code=dag.code_files("steps.generate"),
    output:
        train="results/{workload}/generate/{dataset}/{name}/train.jsonl",
        quarantine="results/{workload}/generate/{dataset}/{name}/quarantine.jsonl",
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
        settings=sampled("generate"),
        teacher=lambda wildcards: GRAPH.folder(wildcards.name),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.generate --settings {params.settings:q} --input {input.rows} --teacher {params.teacher}"
        " --out {params.out} &> {log}"


rule logprobs:
    input:
        rows=rules.generate.output.train,
        teacher=lambda wildcards: checkpoint(wildcards.name),
        code=dag.code_files("steps.logprobs"),
    output:
        ids="results/{workload}/logprobs/{dataset}/{name}/ids.npy",
        logps="results/{workload}/logprobs/{dataset}/{name}/logps.npy",
        tail="results/{workload}/logprobs/{dataset}/{name}/tail.npy",
        lengths="results/{workload}/logprobs/{dataset}/{name}/lengths.npy",
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
        teacher=lambda wildcards: GRAPH.folder(wildcards.name),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.logprobs --settings {params.settings:q} --input {input.rows} --teacher {params.teacher}"
        " --out {params.out} &> {log}"


rule forecast:
    input:
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        student=lambda wildcards: checkpoint(wildcards.name),
        teacher=lambda wildcards: checkpoint(wildcards.teacher),
        code=dag.code_files("steps.forecast"),
    output:
        forecast="results/{workload}/forecast/{dataset}/{name}/{teacher}/forecast.json",
        prefixes="results/{workload}/forecast/{dataset}/{name}/{teacher}/prefixes.csv",
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
        settings=forecast_settings,
        student=lambda wildcards: GRAPH.folder(wildcards.name),
        teacher=lambda wildcards: GRAPH.folder(wildcards.teacher),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.forecast --settings {params.settings:q} --student {params.student} --teacher {params.teacher}"
        " --data {input.rows} --out {params.out} &> {log}"
