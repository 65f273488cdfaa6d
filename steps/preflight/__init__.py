"""Whether a training will fit, before anything is made for it.

preflight  the rule: estimate, verdict, the steps that are tried
machine    what there is: memory, disk
remedies   what would make it fit
rehearse   two real steps of every stage's own trainer
"""
