# How far a checkpoint moved from the model that it descends from, in its weights and in what it computes.


rule geometry:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.node),
        base=lambda wildcards: f"{GRAPH.results}/evaluation/{GRAPH.root(wildcards.node)}/manifest.json",
    output:
        manifest="results/{workload}/geometry/{node}/manifest.json",
    log:
        "logs/{workload}/geometry/{node}.log",
    benchmark:
        "benchmarks/{workload}/geometry/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.moved()),
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("geometry"),
        base=lambda wildcards: GRAPH.folder(GRAPH.root(wildcards.node)),
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.node),
        evaluation=lambda wildcards: f"{GRAPH.results}/evaluation/{GRAPH.root(wildcards.node)}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.stability.geometry --settings {params.settings:q} --base {params.base:q} --checkpoint {params.checkpoint:q}"
        " --samples {params.evaluation:q}/samples.jsonl --evaluation {params.evaluation:q}/results.json"
        " --out {params.out:q} &> {log:q}"
