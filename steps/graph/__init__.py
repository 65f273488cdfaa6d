"""What Snakemake's process imports: recipes, where results lie, checks, SLURM, the display. No torch."""
