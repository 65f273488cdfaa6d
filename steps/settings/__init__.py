"""What a setting may be, and what a stage, a kind or a method is. Imports nothing of the project, and no torch."""
