# One rule per stage: each makes one checkpoint of the recipe graph from its parents. How many processes train is a
# resource: a profile may change it, and nothing is trained again for it.


# A model whose entry of `models` says something of its chat template: what descends from it carries that template.
rule prepare:
    input:
        model=lambda wildcards: GRAPH.downloaded(wildcards.name),
    output:
        manifest="results/{workload}/prepare/{name}/manifest.json",
    log:
        "logs/{workload}/prepare/{name}.log",
    benchmark:
        "benchmarks/{workload}/prepare/{name}.tsv"
    wildcard_constraints:
        name=only(GRAPH.params["models"]),
    # Before anything that waits in a queue.
    priority: 2
    conda:
        "../environment.yaml"
    params:
        settings=settings("prepare"),
        model=lambda wildcards: GRAPH.source(wildcards.name),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.recipes.prepare --settings {params.settings:q} --model {params.model:q} --out {params.out:q} &> {log:q}"


rule sft:
    input:
        parent=parents,
        check=checked,
        preflight=preflights,
        train=lambda wildcards: GRAPH.edge(GRAPH.train_rows(wildcards.node)),
        valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/manifest.json",
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
        settings=settings("sft"),
        train=lambda wildcards: GRAPH.train_rows(wildcards.node),
        valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/valid.jsonl",
        parent=parent_folders,
        check=check,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.training.launch --kind {resources.launch:q} --processes {resources.processes:q} steps.recipes.sft"
        " --settings {params.settings:q} --parent {params.parent:q} --data {params.train:q}"
        " --valid {params.valid:q} {params.check:q} --work {params.work:q} --logs {params.logs:q} --out {params.out:q} &> {log:q}"


rule cpt:
    input:
        parent=parents,
        check=checked,
        preflight=preflights,
        documents=lambda wildcards: GRAPH.edge(GRAPH.documents(wildcards.node)),
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
        settings=settings("cpt"),
        documents=lambda wildcards: GRAPH.documents(wildcards.node),
        parent=parent_folders,
        check=check,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.training.launch --kind {resources.launch:q} --processes {resources.processes:q} steps.recipes.cpt"
        " --settings {params.settings:q} --parent {params.parent:q} --data {params.documents:q}"
        " {params.check:q} --work {params.work:q} --logs {params.logs:q} --out {params.out:q} &> {log:q}"


rule rl:
    input:
        parent=parents,
        check=checked,
        preflight=preflights,
        prompts="results/{workload}/gate/{node}/manifest.json",
        valid=lambda wildcards: edges(GRAPH.held_out(wildcards.node)),
        judge=judge,
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
        settings=settings("rl"),
        prompts="results/{workload}/gate/{node}/prompts.jsonl",
        valid=lambda wildcards: option("--valid", *GRAPH.held_out(wildcards.node)),
        parent=parent_folders,
        check=check,
        reward_model=reward_model,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.training.launch --kind {resources.launch:q} --processes {resources.processes:q} steps.reinforcement.rl"
        " --settings {params.settings:q} --parent {params.parent:q} --data {params.prompts:q}"
        " {params.valid:q} {params.reward_model:q} {params.check:q} --work {params.work:q} --logs {params.logs:q} --out {params.out:q} &> {log:q}"


rule reward:
    input:
        parent=parents,
        preflight=preflights,
        train=lambda wildcards: GRAPH.edge(GRAPH.pair_rows(wildcards.node)),
        valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/manifest.json",
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
        settings=settings("reward"),
        train=lambda wildcards: GRAPH.pair_rows(wildcards.node),
        valid=lambda wildcards: f"{GRAPH.results}/data/{GRAPH.nodes[wildcards.node].data}/split/valid.jsonl",
        parent=parent_folders,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.training.launch --kind {resources.launch:q} --processes {resources.processes:q} steps.recipes.reward"
        " --settings {params.settings:q} --parent {params.parent:q} --data {params.train:q}"
        " --valid {params.valid:q} --work {params.work:q} --logs {params.logs:q} --out {params.out:q} &> {log:q}"


rule distill:
    input:
        parent=parents,
        check=checked,
        preflight=preflights,
        train=lambda wildcards: edges(generations(wildcards)),
        logprobs=cached,
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
        settings=settings("distill"),
        train=generations,
        parent=parent_folders,
        check=check,
        logprobs=logprobs,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.training.launch --kind {resources.launch:q} --processes {resources.processes:q} steps.distillation.distill"
        " --settings {params.settings:q} --parent {params.parent:q} --data {params.train:q}"
        " {params.logprobs:q} {params.check:q} --work {params.work:q} --logs {params.logs:q} --out {params.out:q} &> {log:q}"


rule opd:
    input:
        parent=parents,
        check=checked,
        preflight=preflights,
        teachers=lambda wildcards: [f for t in GRAPH.nodes[wildcards.node].teachers for f in checkpoint(t)],
        prompts=lambda wildcards: edges(GRAPH.prompt_rows(wildcards.node)),
        responses=lambda wildcards: edges(generations(wildcards)),
        forecasts=forecasts,
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
        settings=settings("opd"),
        prompts=lambda wildcards: GRAPH.prompt_rows(wildcards.node),
        parent=parent_folders,
        check=check,
        teachers=teacher_folders,
        responses=responses,
        work="work/{workload}/{node}",
        logs="logs/{workload}/{study}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.training.launch --kind {resources.launch:q} --processes {resources.processes:q} steps.distillation.opd"
        " --settings {params.settings:q} --parent {params.parent:q} --teachers {params.teachers:q}"
        " --data {params.prompts:q} {params.responses:q} {params.check:q} --work {params.work:q} --logs {params.logs:q} --out {params.out:q} &> {log:q}"


rule merge:
    input:
        parents=parents,
        base=lambda wildcards: GRAPH.edges(GRAPH.root(wildcards.node)),
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
        settings=settings("merge"),
        parents=parent_folders,
        base=merge_base,
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.recipes.merge --settings {params.settings:q} --parents {params.parents:q} {params.base:q} --out {params.out:q}"
        " &> {log:q}"


rule interpolate:
    input:
        parents=parents,
        tasks=edges(GRAPH.evaluation_edges()),
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
        settings=settings("interpolate"),
        parents=parent_folders,
        tasks="results/{workload}/world/eval",
        work="work/{workload}/{node}",
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.recipes.interpolate --settings {params.settings:q} --parents {params.parents:q}"
        " --tasks-dir {params.tasks:q} --work {params.work:q} --out {params.out:q} &> {log:q}"


# Rows as a model will see them: `snakemake inspect --config data=<name> recipe=<recipe>`.
rule inspect_rows:
    input:
        rows="results/{workload}/data/{dataset}/split/manifest.json",
        model=lambda wildcards: GRAPH.made(GRAPH.root(wildcards.node)),
    output:
        manifest="results/{workload}/inspect/{dataset}/{node}/manifest.json",
    log:
        "logs/{workload}/inspect/{dataset}/{node}.log",
    benchmark:
        "benchmarks/{workload}/inspect/{dataset}/{node}.tsv"
    wildcard_constraints:
        node=only([*GRAPH.nodes, *GRAPH.params["models"]]),
    conda:
        "../environment.yaml"
    params:
        settings=settings("inspect_rows"),
        rows="results/{workload}/data/{dataset}/split/train.jsonl",
        model=lambda wildcards: GRAPH.folder(GRAPH.root(wildcards.node)),
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m steps.recipes.inspect --settings {params.settings:q} --rows {params.rows:q} --model {params.model:q}"
        " --out {params.out:q} &> {log:q}"


if {"inspected", "recipe"} & GRAPH.params.keys():

    localrules:
        inspect,

    # The target: the rows in the colours of the terminal, and where the page is.
    rule inspect:
        input:
            manifest="{}/inspect/{}/{}/manifest.json".format(GRAPH.results, *inspection.wanted(GRAPH)),
        conda:
            "../environment.yaml"
        params:
            folder=subpath(input.manifest, parent=True),
        shell:
            # Colours are for a terminal alone.
            "if [ -t 1 ]; then cat {params.folder:q}/rows.ansi; else cat {params.folder:q}/rows.txt; fi;"
            " printf '\n%s\n' {params.folder:q}/rows.html"
