# From raw rows to training rows. Each step keeps a row or quarantines it, with the reason; none is dropped.


rule ingest:
    input:
        sources=lambda wildcards: edges(GRAPH.source_edges(wildcards.dataset)),
    output:
        manifest="results/{workload}/data/{dataset}/ingest/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/ingest.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/ingest.tsv"
    conda:
        "../environment.yaml"
    threads: cleaning_threads
    params:
        settings=settings("ingest"),
        sources=lambda wildcards: as_argument(GRAPH.sources(wildcards.dataset)),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.ingest --settings {params.settings:q} --sources {params.sources:q} --cores {threads}"
        " --out {params.out:q} &> {log:q}"


rule filter:
    input:
        rows=rules.ingest.output.manifest,
    output:
        manifest="results/{workload}/data/{dataset}/filter/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/filter.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/filter.tsv"
    conda:
        "../environment.yaml"
    threads: cleaning_threads
    params:
        settings=settings("filter"),
        rows="results/{workload}/data/{dataset}/ingest/rows.jsonl",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.filter --settings {params.settings:q} --input {params.rows:q} --cores {threads}"
        " --out {params.out:q} &> {log:q}"


rule dedup:
    input:
        rows=rules.filter.output.manifest,
        model=GRAPH.made(GRAPH.comparing) if GRAPH.comparing else [],
    output:
        manifest="results/{workload}/data/{dataset}/dedup/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/dedup.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/dedup.tsv"
    conda:
        "../environment.yaml"
    threads: cleaning_threads
    params:
        settings=settings("dedup"),
        rows="results/{workload}/data/{dataset}/filter/rows.jsonl",
        model=option("--model", GRAPH.folder(GRAPH.comparing)) if GRAPH.comparing else [],
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.dedup --settings {params.settings:q} --input {params.rows:q} {params.model:q}"
        " --cores {threads} --out {params.out:q} &> {log:q}"


rule decontaminate:
    input:
        rows=rules.dedup.output.manifest,
        evaluation=edges(GRAPH.evaluation_edges()),
    output:
        manifest="results/{workload}/data/{dataset}/decontaminate/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/decontaminate.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/decontaminate.tsv"
    conda:
        "../environment.yaml"
    threads: cleaning_threads
    params:
        settings=settings("decontaminate"),
        rows="results/{workload}/data/{dataset}/dedup/rows.jsonl",
        evaluation=lambda wildcards: GRAPH.evaluation_files(),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.decontaminate --settings {params.settings:q} --input {params.rows:q}"
        " --eval {params.evaluation:q} --cores {threads} --out {params.out:q} &> {log:q}"


rule split:
    input:
        rows=rules.decontaminate.output.manifest,
    output:
        manifest="results/{workload}/data/{dataset}/split/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/split.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/split.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("split"),
        rows="results/{workload}/data/{dataset}/decontaminate/rows.jsonl",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.split --settings {params.settings:q} --input {params.rows:q} --out {params.out:q} &> {log:q}"


rule bucket:
    input:
        rows=rules.split.output.manifest,
        model=lambda wildcards: GRAPH.edges(GRAPH.params["bucket"]["model"]),
    output:
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
        settings=settings("bucket"),
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        model=lambda wildcards: GRAPH.folder(GRAPH.params["bucket"]["model"]),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.bucket --settings {params.settings:q} --input {params.rows:q} --model {params.model:q}"
        " --out {params.out:q} &> {log:q}"


# Detectors against the planted dirt: the only reader of the world's truth.
rule score_dirt:
    input:
        world="results/{workload}/world/manifest.json",
        rows=[
            rules.ingest.output.manifest,
            rules.filter.output.manifest,
            rules.dedup.output.manifest,
            rules.decontaminate.output.manifest,
        ],
    output:
        manifest="results/{workload}/data/{dataset}/score_dirt/manifest.json",
    log:
        "logs/{workload}/data/{dataset}/score_dirt.log",
    benchmark:
        "benchmarks/{workload}/data/{dataset}/score_dirt.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("score_dirt"),
        truth="results/{workload}/world/truth/dirt.jsonl",
        quarantine=[
            f"results/{{workload}}/data/{{dataset}}/{step}/quarantine.jsonl"
            for step in ("ingest", "filter", "dedup", "decontaminate")
        ],
        kept="results/{workload}/data/{dataset}/decontaminate/rows.jsonl",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.world.score_dirt --settings {params.settings:q} --truth {params.truth:q} --quarantine {params.quarantine:q}"
        " --kept {params.kept:q} --out {params.out:q} &> {log:q}"
