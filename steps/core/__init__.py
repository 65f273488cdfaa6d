"""Files, manifests, the command line of a step, progress, processes, text. Imports nothing of the project."""
