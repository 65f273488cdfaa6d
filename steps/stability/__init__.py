"""What tuning leaves of the base: the geometry of its change, and the report's section on forgetting.

geometry     the rule: how far a tuned model moved from its base
measures     of one layer: the update of its weights, drift, representations
activations  the passes over the prompts from which they are taken
compared     which layers and which prompts
section/     the report's section
"""
