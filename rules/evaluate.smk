# Every checkpoint is measured on the same tasks and the same held-out rows.


rule evaluate:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.name),
        tasks=GRAPH.evaluation_edges(),
        templates=sorted(str(path) for path in Path("tasks").iterdir()),
        valid=expand("results/{{workload}}/data/{dataset}/split/valid.jsonl", dataset=GRAPH.params["evaluate"]["valid"]),
        code=dag.code_files("steps.evaluate"),
    output:
        results="results/{workload}/evaluation/{name}/results.json",
        samples="results/{workload}/evaluation/{name}/samples.jsonl",
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
        settings=evaluate_settings,
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.name),
        tasks="results/{workload}/world/eval",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.evaluate --settings {params.settings:q} --checkpoint {params.checkpoint} --name {wildcards.name}"
        " --tasks-dir {params.tasks} --valid {input.valid} --out {params.out} &> {log}"
