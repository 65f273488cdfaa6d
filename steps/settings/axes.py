"""The axes that a checkpoint is measured on."""

# What a task of evaluate may measure.
AXES = ("target", "harder", "general", "dev")
# Those whose scores are results: dev chooses, and is none.
REPORTED = ("target", "harder", "general")
# The two that every trade-off is between: what post-training is for, and what the base model could already do.
CAPABILITIES = ("target", "general")
