# Whether the trainings will fit, before anything else is made: `snakemake preflight`.
from steps.training import memory


localrules:
    preflight,


rule preflight_node:
    input:
        models=preflight_models,
    output:
        manifest="results/{workload}/preflight/{node}/manifest.json",
    log:
        "logs/{workload}/preflight/{node}.log",
    benchmark:
        "benchmarks/{workload}/preflight/{node}.tsv"
    wildcard_constraints:
        node=only(GRAPH.rehearsals.values()),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=settings("preflight_node"),
        models=preflight_folders,
        work="work/{workload}/preflight/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.preflight.preflight --settings {params.settings:q} --kind {resources.launch:q}"
        " --processes {resources.processes:q} {params.models:q} --work {params.work:q} --out {params.out:q} &> {log:q}"


# The target: every training of the workload, and the table of what was found.
rule preflight:
    input:
        found=[f"{GRAPH.results}/preflight/{node}/manifest.json" for node in GRAPH.rehearsals.values()],
    log:
        f"logs/{GRAPH.params['workload']}/preflight.log",
    conda:
        "../environment.yaml"
    params:
        head=memory.HEAD,
        rows=[f"{GRAPH.results}/preflight/{node}/row.txt" for node in GRAPH.rehearsals.values()],
    shell:
        # Without files cat would wait for input.
        "{{ printf '%s\\n' {params.head:q}; cat /dev/null {params.rows:q}; }} | tee {log:q}"
