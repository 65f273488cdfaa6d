"""Learning from rewards that a program computes: the rules difficulty, gate, rl, and the methods."""
