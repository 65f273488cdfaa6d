"""What Snakemake's process imports: recipes, where results lie, checks, SLURM, the plan,
the display, the live page. No torch."""
