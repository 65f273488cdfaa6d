"""What fine-tuning failed to learn and why: the rules detect, evidence, attribute, mixture, treat."""
