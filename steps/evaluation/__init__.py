"""What a checkpoint can do: the rules evaluate and explore, and the tasks that they ask."""
