# The only rule that opens a socket: what has a `revision` in params.yaml. Also a copy of an adapter whose `base` is named.


# Before anything that waits in a queue: what can be refused is refused first.
rule download:
    input:
        # An adapter whose base is named waits for it.
        base=lambda wildcards: GRAPH.adapted(wildcards.kind, wildcards.name),
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
        settings=settings("download"),
        work="work/{workload}/download/{kind}/{name}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.data.download --settings {params.settings:q} --work {params.work:q} --out {params.out:q} &> {log:q}"
