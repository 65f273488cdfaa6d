# How far a checkpoint moved from the model that it descends from, in its weights and in what it computes.


rule geometry:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.node),
        base=lambda wildcards: f"{GRAPH.results}/evaluation/{GRAPH.root(wildcards.node)}/manifest.json",
        code=dag.code_files("steps.geometry"),
    output:
        modules="results/{workload}/geometry/{node}/modules.csv",
        summary="results/{workload}/geometry/{node}/geometry.json",
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
        "python -m steps.geometry --settings {params.settings:q} --base {params.base} --checkpoint {params.checkpoint}"
        " --samples {params.evaluation}/samples.jsonl --evaluation {params.evaluation}/results.json"
        " --out {params.out} &> {log}"
