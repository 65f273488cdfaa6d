# What a checkpoint did not learn, why, and the rows and documents that treat it.


rule detect:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.node),
        train=lambda wildcards: GRAPH.all_rows(GRAPH.examined(wildcards.node)),
        relabelled=lambda wildcards: GRAPH.relabelled(wildcards.node) or [],
        code=dag.code_files("steps.detect"),
    output:
        detected="results/{workload}/detect/{node}/detected.parquet",
        unlearned="results/{workload}/detect/{node}/unlearned.parquet",
        excluded="results/{workload}/detect/{node}/excluded.jsonl",
        manifest="results/{workload}/detect/{node}/manifest.json",
    log:
        "logs/{workload}/detect/{node}.log",
    benchmark:
        "benchmarks/{workload}/detect/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.detected()),
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=sampled("detect"),
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.node),
        relabelled=lambda wildcards, input: f"--relabelled {input.relabelled}" if input.relabelled else "",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.detect --settings {params.settings:q} --checkpoint {params.checkpoint} --data {input.train}"
        " {params.relabelled} --out {params.out} &> {log}"


rule evidence:
    input:
        detected=rules.detect.output.detected,
        checkpoint=lambda wildcards: GRAPH.edges(wildcards.node),
        base=lambda wildcards: GRAPH.edges(GRAPH.root(wildcards.node)),
        train=lambda wildcards: GRAPH.all_rows(GRAPH.examined(wildcards.node)),
        library=[GRAPH.edge(file) for file in GRAPH.params["evidence"]["library"]],
        code=dag.code_files("steps.evidence"),
    output:
        evidence="results/{workload}/evidence/{node}/evidence.parquet",
        manifest="results/{workload}/evidence/{node}/manifest.json",
    log:
        "logs/{workload}/evidence/{node}.log",
    benchmark:
        "benchmarks/{workload}/evidence/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.diagnosed()),
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=sampled("evidence"),
        trajectory=lambda wildcards: f"{GRAPH.folder(wildcards.node)}/trajectory.parquet",
        base=lambda wildcards: GRAPH.folder(GRAPH.root(wildcards.node)),
        library=GRAPH.params["evidence"]["library"],
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.evidence --settings {params.settings:q} --detected {input.detected}"
        " --trajectory {params.trajectory} --base {params.base} --data {input.train} --library {params.library}"
        " --out {params.out} &> {log}"


rule attribute:
    input:
        evidence=rules.evidence.output.evidence,
        code=dag.code_files("steps.attribute"),
    output:
        attribution="results/{workload}/attribute/{node}/attribution.parquet",
        manifest="results/{workload}/attribute/{node}/manifest.json",
    log:
        "logs/{workload}/attribute/{node}.log",
    benchmark:
        "benchmarks/{workload}/attribute/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.diagnosed()),
    conda:
        "../environment.yaml"
    params:
        settings=settings("attribute"),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.attribute --settings {params.settings:q} --evidence {input.evidence} --out {params.out} &> {log}"


rule mixture:
    input:
        attribution=diagnosis("attribute", "attribution.parquet"),
        detected=diagnosis("detect", "detected.parquet"),
        evidence=diagnosis("evidence", "evidence.parquet"),
        general=[GRAPH.edge(file) for file in GRAPH.params["mixture"]["general"]],
        library=[GRAPH.edge(file) for file in GRAPH.params["mixture"]["library"]],
        code=dag.code_files("steps.mixture"),
    output:
        documents="results/{workload}/mixture/{node}/documents.jsonl",
        manifest="results/{workload}/mixture/{node}/manifest.json",
    log:
        "logs/{workload}/mixture/{node}.log",
    benchmark:
        "benchmarks/{workload}/mixture/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("cpt")),
    conda:
        "../environment.yaml"
    params:
        settings=settings("mixture"),
        treatment=treatment,
        general=GRAPH.params["mixture"]["general"],
        library=GRAPH.params["mixture"]["library"],
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.mixture --settings {params.settings:q} --treatment {params.treatment:q}"
        " --attribution {input.attribution} --detected {input.detected} --evidence {input.evidence}"
        " --general {params.general} --library {params.library} --out {params.out} &> {log}"


rule treat:
    input:
        attribution=diagnosis("attribute", "attribution.parquet"),
        detected=diagnosis("detect", "detected.parquet"),
        evidence=diagnosis("evidence", "evidence.parquet"),
        rows=lambda wildcards: GRAPH.input_rows(wildcards.node),
        code=dag.code_files("steps.treat"),
    output:
        train="results/{workload}/treat/{node}/train.jsonl",
        relabelled="results/{workload}/treat/{node}/relabelled.jsonl",
        manifest="results/{workload}/treat/{node}/manifest.json",
    log:
        "logs/{workload}/treat/{node}.log",
    benchmark:
        "benchmarks/{workload}/treat/{node}.tsv"
    wildcard_constraints:
        node=only(name for name in node_names("sft") if GRAPH.nodes[name].treatment),
    conda:
        "../environment.yaml"
    params:
        settings=settings("treat"),
        treatment=treatment,
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.treat --settings {params.settings:q} --treatment {params.treatment:q}"
        " --attribution {input.attribution} --detected {input.detected} --evidence {input.evidence} --data {input.rows}"
        " --out {params.out} &> {log}"


# Detection and attribution against the planted causes: the only reader of that truth.
rule score_causes:
    input:
        world="results/{workload}/world/manifest.json",
        detected=rules.detect.output.detected,
        attribution=lambda wildcards: (
            f"{GRAPH.results}/attribute/{wildcards.node}/attribution.parquet"
            if wildcards.node in GRAPH.diagnosed()
            else []
        ),
        code=dag.code_files("steps.score_causes"),
    output:
        causes="results/{workload}/score_causes/{node}/causes.csv",
        confusion="results/{workload}/score_causes/{node}/confusion.csv",
        rows="results/{workload}/score_causes/{node}/rows.csv",
        score="results/{workload}/score_causes/{node}/score.json",
        manifest="results/{workload}/score_causes/{node}/manifest.json",
    log:
        "logs/{workload}/score_causes/{node}.log",
    benchmark:
        "benchmarks/{workload}/score_causes/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.scored()),
    conda:
        "../environment.yaml"
    params:
        settings=lambda wildcards: "{}",
        truth="results/{workload}/world/truth/lessons.jsonl",
        attribution=lambda wildcards, input: f"--attribution {input.attribution}" if input.attribution else "",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.score_causes --settings {params.settings:q} --truth {params.truth} --detected {input.detected}"
        " {params.attribution} --out {params.out} &> {log}"
