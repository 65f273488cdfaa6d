# From raw rows to training rows. Each step keeps a row or quarantines it, with the reason; none is dropped.


rule ingest:
    input:
        sources=lambda wildcards: GRAPH.source_edges(wildcards.dataset),
        code=dag.code_files("steps.ingest"),
    output:
        rows="results/{workload}/data/{dataset}/ingest/rows.jsonl",
        quarantine="results/{workload}/data/{dataset}/ingest/quarantine.jsonl",
        manifest="results/{workload}/data/{dataset}/ingest/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/ingest.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/ingest.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("ingest"),
        sources=lambda wildcards: json.dumps(GRAPH.sources(wildcards.dataset), sort_keys=True),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.ingest --settings {params.settings:q} --sources {params.sources:q} --out {params.out} &> {log}"


rule filter:
    input:
        rows=rules.ingest.output.rows,
        code=dag.code_files("steps.filter"),
    output:
        rows="results/{workload}/data/{dataset}/filter/rows.jsonl",
        quarantine="results/{workload}/data/{dataset}/filter/quarantine.jsonl",
        manifest="results/{workload}/data/{dataset}/filter/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/filter.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/filter.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("filter"),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.filter --settings {params.settings:q} --input {input.rows} --out {params.out} &> {log}"


rule dedup:
    input:
        rows=rules.filter.output.rows,
        code=dag.code_files("steps.dedup"),
    output:
        rows="results/{workload}/data/{dataset}/dedup/rows.jsonl",
        quarantine="results/{workload}/data/{dataset}/dedup/quarantine.jsonl",
        manifest="results/{workload}/data/{dataset}/dedup/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/dedup.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/dedup.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("dedup"),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.dedup --settings {params.settings:q} --input {input.rows} --out {params.out} &> {log}"


rule decontaminate:
    input:
        rows=rules.dedup.output.rows,
        evaluation=GRAPH.evaluation_edges(),
        code=dag.code_files("steps.decontaminate"),
    output:
        rows="results/{workload}/data/{dataset}/decontaminate/rows.jsonl",
        quarantine="results/{workload}/data/{dataset}/decontaminate/quarantine.jsonl",
        manifest="results/{workload}/data/{dataset}/decontaminate/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/decontaminate.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/decontaminate.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("decontaminate"),
        evaluation=GRAPH.evaluation_files(),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.decontaminate --settings {params.settings:q} --input {input.rows}"
        " --eval {params.evaluation} --out {params.out} &> {log}"


rule split:
    input:
        rows=rules.decontaminate.output.rows,
        code=dag.code_files("steps.split"),
    output:
        train="results/{workload}/data/{dataset}/split/train.jsonl",
        valid="results/{workload}/data/{dataset}/split/valid.jsonl",
        manifest="results/{workload}/data/{dataset}/split/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/split.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/split.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("split"),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.split --settings {params.settings:q} --input {input.rows} --out {params.out} &> {log}"


rule bucket:
    input:
        rows=rules.split.output.train,
        model=GRAPH.edges(GRAPH.params["bucket"]["model"]),
        code=dag.code_files("steps.bucket"),
    output:
        train="results/{workload}/data/{dataset}/bucket/train.jsonl",
        manifest="results/{workload}/data/{dataset}/bucket/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/bucket.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/bucket.tsv"
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=sampled("bucket"),
        model=lambda wildcards: GRAPH.folder(GRAPH.params["bucket"]["model"]),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.bucket --settings {params.settings:q} --input {input.rows} --model {params.model}"
        " --out {params.out} &> {log}"


# Detectors against the planted dirt: the only reader of the world's truth.
rule score_dirt:
    input:
        world="results/{workload}/world/manifest.json",
        quarantine=[
            rules.ingest.output.quarantine,
            rules.filter.output.quarantine,
            rules.dedup.output.quarantine,
            rules.decontaminate.output.quarantine,
        ],
        kept=rules.decontaminate.output.rows,
        code=dag.code_files("steps.score_dirt"),
    output:
        manifest="results/{workload}/data/{dataset}/score_dirt/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/score_dirt.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/score_dirt.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=lambda wildcards: "{}",
        truth="results/{workload}/world/truth/dirt.jsonl",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.score_dirt --settings {params.settings:q} --truth {params.truth} --quarantine {input.quarantine}"
        " --kept {input.kept} --out {params.out} &> {log}"
