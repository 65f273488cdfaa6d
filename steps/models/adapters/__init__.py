"""Adapters: what is trained when not every weight is, through PEFT; how it is attached, resumed, saved and counted.

kinds      one entry for each kind: PEFT's configuration, how many weights are trained, what its settings must fit
targets    which layers of a model an adapter changes, by their names
layers     what of a model it can change, found on the model at hand
tokens     tokens that a training adds
attach     a model and its adapter, before training; how many weights of it are trained
frozen     what a kind does to the weights that it leaves frozen: 4 bits, singular triplets taken out
butterfly  boft with more than one factor, without PEFT's CUDA extension
hooks      what a training asks of an adapter: its penalty, what follows a step, what a resumed run needs
save       a trained adapter as files that load on its untouched parent
stacked    an adapter on an adapter, as one
rotation   the rotations of an oft adapter
files      the names of its files

Whoever reads a checkpoint imports `files`, `butterfly`, `targets` and `tokens` only: a change of how adapters are
trained reruns trainings, and nothing that reads their results.
"""
