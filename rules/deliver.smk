# One checkpoint, ready for others: `snakemake deliver --config checkpoint=<recipe>`.

if "checkpoint" in GRAPH.params:

    rule deliver:
        input:
            checkpoint=checkpoint(GRAPH.delivered()),
            made_by=GRAPH.delivery_inputs(),
            valid=f"{GRAPH.results}/data/{GRAPH.params['evaluate']['valid']}/split/valid.jsonl",
            licence="LICENSE",
            code=dag.code_files("steps.deliver"),
        output:
            manifest=f"{GRAPH.results}/deliver/{GRAPH.delivered()}/manifest.json",
        log:
            f"logs/{GRAPH.params['workload']}/deliver/{GRAPH.delivered()}.log",
        benchmark:
            f"benchmarks/{GRAPH.params['workload']}/deliver/{GRAPH.delivered()}.tsv"
        conda:
            "../environment.yaml"
        params:
            settings=lambda wildcards: common.as_argument(GRAPH.delivery()),
            checkpoint=lambda wildcards: GRAPH.folder(GRAPH.delivered()),
            results=lambda wildcards: GRAPH.results,
            out=subpath(output.manifest, parent=True),
        shell:
            "python -m steps.deliver --settings {params.settings:q} --checkpoint {params.checkpoint:q}"
            " --results {params.results} --valid {input.valid} --out {params.out:q} &> {log:q}"
