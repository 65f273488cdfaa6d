# The embedded world and the models pre-trained on it. Only workloads with a `world` section ask for them.


rule world:
    output:
        manifest="results/{workload}/world/manifest.json",
    log:
        "logs/{workload}/world.log",
    benchmark:
        "benchmarks/{workload}/world.tsv"
    conda:
        "../environment.yaml"
    params:
        settings=settings("world"),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.world.world --settings {params.settings:q} --out {params.out:q} &> {log:q}"


# Rebuilds what ships in data/fable; no other target asks for it.
rule pretrain:
    input:
        expand(
            "results/{workload}/pretrain/{size}/manifest.json",
            workload=GRAPH.params["workload"],
            size=["base", "large"],
        ),


rule pretrain_model:
    output:
        manifest="results/{workload}/pretrain/{size}/manifest.json",
    log:
        "logs/{workload}/pretrain/{size}.log",
    benchmark:
        "benchmarks/{workload}/pretrain/{size}.tsv"
    wildcard_constraints:
        size="base|large",
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=settings("pretrain_model"),
        work="work/{workload}/pretrain/{size}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.world.pretrain --settings {params.settings:q} --work {params.work:q} --out {params.out:q} &> {log:q}"
