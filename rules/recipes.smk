# One rule per stage: each makes one checkpoint of the recipe graph from its parents. How many processes train is a
# resource: a profile may change it, and nothing is trained again for it.


rule sft:
    input:
        parent=parents,
        preflight=preflights,
        train=lambda wildcards: GRAPH.train_rows(wildcards.node),
        valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/valid.jsonl",
        code=dag.code_files("steps.sft"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("sft")),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=node_settings,
        parent=parent_folders,
        work="work/{workload}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.launch --kind {resources.launch} --processes {resources.processes} steps.sft"
        " --settings {params.settings:q} --parent {params.parent} --data {input.train}"
        " --valid {input.valid} --work {params.work} --out {params.out} &> {log}"


rule cpt:
    input:
        parent=parents,
        preflight=preflights,
        documents="results/{workload}/mixture/{node}/documents.jsonl",
        code=dag.code_files("steps.cpt"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("cpt")),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=node_settings,
        parent=parent_folders,
        work="work/{workload}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.launch --kind {resources.launch} --processes {resources.processes} steps.cpt"
        " --settings {params.settings:q} --parent {params.parent} --data {input.documents}"
        " --work {params.work} --out {params.out} &> {log}"


rule rl:
    input:
        parent=parents,
        preflight=preflights,
        prompts="results/{workload}/gate/{node}/prompts.jsonl",
        rewards=reward_files,
        code=dag.code_files("steps.rl"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("rl")),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=node_settings,
        parent=parent_folders,
        reward_model=reward_model,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.launch --kind {resources.launch} --processes {resources.processes} steps.rl"
        " --settings {params.settings:q} --parent {params.parent} --data {input.prompts}"
        " {params.reward_model} --work {params.work} --logs {params.logs} --out {params.out} &> {log}"


rule reward:
    input:
        parent=parents,
        preflight=preflights,
        train=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/train.jsonl",
        valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/valid.jsonl",
        code=dag.code_files("steps.reward"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("reward")),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=node_settings,
        parent=parent_folders,
        work="work/{workload}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.launch --kind {resources.launch} --processes {resources.processes} steps.reward"
        " --settings {params.settings:q} --parent {params.parent} --data {input.train}"
        " --valid {input.valid} --work {params.work} --out {params.out} &> {log}"


rule distill:
    input:
        parent=parents,
        preflight=preflights,
        train=generations,
        logprobs=cached,
        code=dag.code_files("steps.distill"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("distill")),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=node_settings,
        parent=parent_folders,
        logprobs=logprobs,
        work="work/{workload}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.launch --kind {resources.launch} --processes {resources.processes} steps.distill"
        " --settings {params.settings:q} --parent {params.parent} --data {input.train}"
        " {params.logprobs} --work {params.work} --out {params.out} &> {log}"


rule opd:
    input:
        parent=parents,
        preflight=preflights,
        teachers=lambda wildcards: [f for t in GRAPH.nodes[wildcards.node].teachers for f in checkpoint(t)],
        prompts=lambda wildcards: GRAPH.prompt_rows(wildcards.node),
        responses=generations,
        forecasts=forecasts,
        code=dag.code_files("steps.opd"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("opd")),
    conda:
        "../environment.yaml"
    resources:
        gpu=gpus,
        launch=launch_kind,
        processes=launch_processes,
    params:
        settings=node_settings,
        parent=parent_folders,
        teachers=teacher_folders,
        responses=responses,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.launch --kind {resources.launch} --processes {resources.processes} steps.opd"
        " --settings {params.settings:q} --parent {params.parent} --teachers {params.teachers}"
        " --data {input.prompts} {params.responses} --work {params.work} --logs {params.logs} --out {params.out} &> {log}"


rule merge:
    input:
        parents=parents,
        base=lambda wildcards: GRAPH.edges(GRAPH.root(wildcards.node)),
        code=dag.code_files("steps.merge"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("merge")),
    conda:
        "../environment.yaml"
    params:
        settings=node_settings,
        parents=parent_folders,
        base=merge_base,
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.merge --settings {params.settings:q} --parents {params.parents} {params.base} --out {params.out}"
        " &> {log}"


rule interpolate:
    input:
        parents=parents,
        tasks=GRAPH.evaluation_edges(),
        templates=sorted(str(path) for path in Path("tasks").iterdir()),
        code=dag.code_files("steps.interpolate"),
    output:
        manifest="results/{workload}/{study}/{node}/manifest.json",
    log:
        "logs/{workload}/{study}/{node}.log",
    benchmark:
        "benchmarks/{workload}/{study}/{node}.tsv"
    wildcard_constraints:
        node=only(node_names("interpolate")),
    conda:
        "../environment.yaml"
    resources:
        gpu=GPU,
    params:
        settings=path_settings,
        parents=parent_folders,
        tasks="results/{workload}/world/eval",
        work="work/{workload}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.interpolate --settings {params.settings:q} --parents {params.parents}"
        " --tasks-dir {params.tasks} --work {params.work} --out {params.out} &> {log}"
