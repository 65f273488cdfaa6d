# Whether the trainings will fit, before anything else is made: `snakemake preflight`.
from steps import memory


localrules:
    preflight,


rule preflight_node:
    input:
        models=preflight_models,
        code=dag.code_files("steps.preflight"),
    output:
        found="results/{workload}/preflight/{node}/preflight.json",
        row="results/{workload}/preflight/{node}/row.txt",
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
        settings=preflight_settings,
        models=preflight_folders,
        work="work/{workload}/preflight_{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.preflight --kind {resources.launch} --processes {resources.processes}"
        " --settings {params.settings:q} {params.models} --work {params.work} --out {params.out} &> {log}"


# The target: every training of the workload, and the table of what was found.
rule preflight:
    input:
        rows=[f"{GRAPH.results}/preflight/{node}/row.txt" for node in GRAPH.rehearsals.values()],
    log:
        f"logs/{GRAPH.params['workload']}/preflight.log",
    conda:
        "../environment.yaml"
    params:
        head=memory.HEAD,
    shell:
        # Without files cat would wait for input.
        "{{ printf '%s\\n' {params.head:q}; cat /dev/null {input.rows}; }} | tee {log}"
