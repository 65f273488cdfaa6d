"""Models as files and as tensors: what a checkpoint is, and what is made of several.

files        what anybody may have written, read within limits
fit          whether weights are those that a configuration asks for, and finite
templates    whether a chat template ends
checkpoints  folders of models and adapters: verified, loaded, described
adapters/    what is trained when not every weight is
weights      the tensors of a checkpoint, read and written in pieces
compatible   whether checkpoints may be merged
merging      merge methods, on corresponding tensors
paths        the points between two checkpoints
context      how many tokens a model reads at once
trial        how a model reads made-up rows, alone and otherwise
positions    of rows that are padded on the left
teachers     models that a student learns from
"""
