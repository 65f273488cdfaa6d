# What a checkpoint did not learn, why, and the rows and documents that treat it.


rule detect:
    input:
        checkpoint=lambda wildcards: checkpoint(wildcards.node),
        train=lambda wildcards: GRAPH.edge(GRAPH.all_rows(GRAPH.examined(wildcards.node))),
        relabelled=lambda wildcards: edges(filter(None, [GRAPH.relabelled(wildcards.node)])),
    output:
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
        settings=settings("detect"),
        checkpoint=lambda wildcards: GRAPH.folder(wildcards.node),
        train=lambda wildcards: GRAPH.all_rows(GRAPH.examined(wildcards.node)),
        relabelled=lambda wildcards: option("--relabelled", GRAPH.relabelled(wildcards.node)),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.diagnosis.detect --settings {params.settings:q} --checkpoint {params.checkpoint:q} --data {params.train:q}"
        " {params.relabelled:q} --out {params.out:q} &> {log:q}"


rule evidence:
    input:
        detected=rules.detect.output.manifest,
        checkpoint=lambda wildcards: GRAPH.edges(wildcards.node),
        base=lambda wildcards: GRAPH.edges(GRAPH.root(wildcards.node)),
        train=lambda wildcards: GRAPH.edge(GRAPH.all_rows(GRAPH.examined(wildcards.node))),
        library=edges(GRAPH.params["evidence"]["library"]),
    output:
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
        settings=settings("evidence"),
        detected="results/{workload}/detect/{node}/detected.parquet",
        train=lambda wildcards: GRAPH.all_rows(GRAPH.examined(wildcards.node)),
        trajectory=lambda wildcards: f"{GRAPH.folder(wildcards.node)}/trajectory.parquet",
        base=lambda wildcards: GRAPH.folder(GRAPH.root(wildcards.node)),
        library=lambda wildcards: GRAPH.params["evidence"]["library"],
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.diagnosis.evidence --settings {params.settings:q} --detected {params.detected:q}"
        " --trajectory {params.trajectory:q} --base {params.base:q} --data {params.train:q} --library {params.library:q}"
        " --out {params.out:q} &> {log:q}"


rule attribute:
    input:
        evidence=rules.evidence.output.manifest,
    output:
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
        evidence="results/{workload}/evidence/{node}/evidence.parquet",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.diagnosis.attribute --settings {params.settings:q} --evidence {params.evidence:q} --out {params.out:q} &> {log:q}"


rule mixture:
    input:
        attribution=diagnosis("attribute", "manifest.json"),
        detected=diagnosis("detect", "manifest.json"),
        evidence=diagnosis("evidence", "manifest.json"),
        model=lambda wildcards: GRAPH.edges(GRAPH.root(wildcards.node)),
        general=edges(GRAPH.params["mixture"]["general"]),
        library=edges(GRAPH.params["mixture"]["library"]),
    output:
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
        attribution=diagnosis("attribute", "attribution.parquet"),
        detected=diagnosis("detect", "detected.parquet"),
        evidence=diagnosis("evidence", "evidence.parquet"),
        general=lambda wildcards: GRAPH.params["mixture"]["general"],
        library=lambda wildcards: GRAPH.params["mixture"]["library"],
        model=lambda wildcards: GRAPH.folder(GRAPH.root(wildcards.node)),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.diagnosis.mixture --settings {params.settings:q} --treatment {params.treatment:q}"
        " --attribution {params.attribution:q} --detected {params.detected:q} --evidence {params.evidence:q}"
        " --general {params.general:q} --library {params.library:q} --model {params.model:q} --out {params.out:q} &> {log:q}"


rule treat:
    input:
        attribution=diagnosis("attribute", "manifest.json"),
        detected=diagnosis("detect", "manifest.json"),
        evidence=diagnosis("evidence", "manifest.json"),
        rows=lambda wildcards: GRAPH.edge(GRAPH.input_rows(wildcards.node)),
        model=lambda wildcards: GRAPH.edges(GRAPH.root(wildcards.node)),
    output:
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
        attribution=diagnosis("attribute", "attribution.parquet"),
        detected=diagnosis("detect", "detected.parquet"),
        evidence=diagnosis("evidence", "evidence.parquet"),
        rows=lambda wildcards: GRAPH.input_rows(wildcards.node),
        model=lambda wildcards: GRAPH.folder(GRAPH.root(wildcards.node)),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.diagnosis.treat --settings {params.settings:q} --treatment {params.treatment:q}"
        " --attribution {params.attribution:q} --detected {params.detected:q} --evidence {params.evidence:q} --data {params.rows:q}"
        " --model {params.model:q} --out {params.out:q} &> {log:q}"


# Detection and attribution against the planted causes: the only reader of that truth.
rule score_causes:
    input:
        world="results/{workload}/world/manifest.json",
        detected=rules.detect.output.manifest,
        attribution=lambda wildcards: edges(attributed(wildcards)),
    output:
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
        settings=settings("score_causes"),
        truth="results/{workload}/world/truth/lessons.jsonl",
        detected="results/{workload}/detect/{node}/detected.parquet",
        attribution=lambda wildcards: option("--attribution", *attributed(wildcards)),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.world.score_causes --settings {params.settings:q} --truth {params.truth:q} --detected {params.detected:q}"
        " {params.attribution:q} --out {params.out:q} &> {log:q}"
