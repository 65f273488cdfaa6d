# One checkpoint, ready for others: `snakemake deliver --config checkpoint=<recipe>`.

if "checkpoint" in GRAPH.params:

    rule deliver:
        input:
            checkpoint=lambda wildcards: checkpoint(delivery.delivered(GRAPH)),
            made_by=lambda wildcards: delivery.delivery_inputs(GRAPH),
            valid=f"{GRAPH.results}/data/{GRAPH.params['evaluate']['valid']}/split/manifest.json",
            licence="LICENSE",
        output:
            manifest=f"{GRAPH.results}/deliver/{delivery.delivered(GRAPH)}/manifest.json",
        log:
            f"logs/{GRAPH.params['workload']}/deliver/{delivery.delivered(GRAPH)}.log",
        benchmark:
            f"benchmarks/{GRAPH.params['workload']}/deliver/{delivery.delivered(GRAPH)}.tsv"
        conda:
            "../environment.yaml"
        params:
            settings=lambda wildcards: as_argument(delivery.delivery(GRAPH)),
            checkpoint=lambda wildcards: GRAPH.folder(delivery.delivered(GRAPH)),
            results=lambda wildcards: GRAPH.results,
            valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.params['evaluate']['valid']}/split/valid.jsonl",
            out=subpath(output.manifest, parent=True),
        shell:
            "python -m steps.delivery.deliver --settings {params.settings:q} --checkpoint {params.checkpoint:q}"
            " --results {params.results:q} --valid {params.valid:q} --out {params.out:q} &> {log:q}"
