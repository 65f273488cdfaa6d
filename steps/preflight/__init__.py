"""Whether a model is what the stages take it for, and whether a training will fit, before anything is made.

check_model  the rule: a base model's properties, as a table
properties   what is tried of them
adapters     and of each kind of adapter
preflight    the rule: estimate, verdict, the steps that are tried
machine      what there is: memory, disk
remedies     what would make it fit
rehearse     two real steps of every stage's own trainer
"""
