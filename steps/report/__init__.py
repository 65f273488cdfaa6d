"""What a run found, as one page: the rule report, its sections, and what every section is made of."""
