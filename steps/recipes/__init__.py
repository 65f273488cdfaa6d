"""The rules sft, cpt, reward, merge, interpolate: ways to make a checkpoint from its parents."""
