# Every checkpoint is measured on the same tasks and the same held-out rows.


rule evaluate:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.name),
        tasks=edges(GRAPH.evaluation_edges()),
        valid=f"results/{{workload}}/data/{GRAPH.params['evaluate']['valid']}/split/manifest.json",
    output:
        manifest="results/{workload}/evaluation/{name}/manifest.json",
    log:
        "logs/{workload}/evaluation/{name}.log",
    benchmark:
        "benchmarks/{workload}/evaluation/{name}.tsv"
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("evaluate"),
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.name),
        tasks="results/{workload}/world/eval",
        valid=f"results/{{workload}}/data/{GRAPH.params['evaluate']['valid']}/split/valid.jsonl",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.evaluation.evaluate --settings {params.settings:q} --checkpoint {params.checkpoint:q} --name {wildcards.name:q}"
        " --tasks-dir {params.tasks:q} --valid {params.valid:q} --out {params.out:q} &> {log:q}"
