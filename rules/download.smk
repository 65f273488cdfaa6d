# The only rule that opens a socket: what has a `revision` in params.yaml.


# Before anything that waits in a queue: what can be refused is refused first.
rule download:
    input:
        code=dag.code_files("steps.download"),
    output:
        manifest="results/{workload}/download/{kind}/{name}/manifest.json",
    log:
        "logs/{workload}/download/{kind}/{name}.log",
    benchmark:
        "benchmarks/{workload}/download/{kind}/{name}.tsv"
    wildcard_constraints:
        kind="models|data",
    priority: 2
    conda:
        "../environment.yaml"
    params:
        settings=lambda wildcards: json.dumps(GRAPH.params[wildcards.kind][wildcards.name], sort_keys=True),
        work="work/{workload}/download_{kind}_{name}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.download --settings {params.settings:q} --work {params.work} --out {params.out} &> {log}"
