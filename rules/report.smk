# One page over every study, with its tables and figures.


rule report:
    input:
        world=[edge for edge in GRAPH.evaluation_edges() if edge.startswith(GRAPH.world)],
        data=expand(
            "results/{workload}/data/{dataset}/{step}/manifest.json",
            workload=GRAPH.params["workload"],
            dataset=GRAPH.used_data(),
            step=["ingest", "filter", "dedup", "decontaminate", "split"],
        ),
        buckets=expand(
            "results/{workload}/data/{dataset}/bucket/manifest.json",
            workload=GRAPH.params["workload"],
            dataset=GRAPH.bucketed(),
        ),
        dirt=expand(
            "results/{workload}/data/{dataset}/score_dirt/manifest.json",
            workload=GRAPH.params["workload"],
            dataset=[name for name in GRAPH.used_data() if GRAPH.from_world(name, "raw/")],
        ),
        checkpoints=lambda wildcards: [edge for name in GRAPH.measured() for edge in GRAPH.edges(name)],
        evaluations=evaluations(),
        findings=findings(),
        generations=[f"{GRAPH.generation(*pair)}/manifest.json" for pair in GRAPH.generations()],
    output:
        **({"rows": "reports/{workload}/rows.html"} if GRAPH.diagnosed() else {}),
        page=report(
            "reports/{workload}/index.html",
            caption="report.rst",
            category="Report",
        ),
        manifest="reports/{workload}/manifest.json",
        headline="reports/{workload}/headline.json",
        metrics="reports/{workload}/metrics.json",
        summary="reports/{workload}/summary.txt",
        tables=report(
            directory("reports/{workload}/tables"), patterns=["{name}.csv"], category="Tables", caption="report.rst"
        ),
        figures=report(
            directory("reports/{workload}/figures"), patterns=["{name}.svg"], category="Figures", caption="report.rst"
        ),
    log:
        "logs/{workload}/report.log",
    benchmark:
        "benchmarks/{workload}/report.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=lambda wildcards: as_argument(GRAPH.describe()),
        results="results/{workload}",
        out=subpath(output.page, parent=True),
    shell:
        "python -m steps.report.report --settings {params.settings:q} --results {params.results:q} --out {params.out:q} &> {log:q}"
