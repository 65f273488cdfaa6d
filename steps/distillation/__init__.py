"""Distillation: a student learns from what other models write, or from what they say of its own writing.

Two stages train. `distill` is off-policy: the student reads what a teacher wrote. `opd` is on-policy: the student
writes, and its teachers score every token.

generate           the rule: a teacher's responses to some prompts, those worth learning
logprobs           the rule: a teacher's likeliest next tokens along them, stored
forecast           the rule: whether opd of this student from this teacher is likely to help, before any training
distill            the rule of the stage distill
opd                the rule of the stage opd

teacher_cache      the files of logprobs, memory-mapped (for distill)
distill_objective  what distill learns from rows: their encoding, layout and loss
opd_plan           which prompts a step of opd asks, and what its log has
opd_trainer        the trainer of opd
opd_measures       what opd measures along the student's responses, by step and by place
divergence         how far student and teacher are apart, in opd's loss
overlap            how alike they think: the diagnostics of opd and of the forecast
forecast_pair      what two models do that are asked the same
forecast_verdict   estimates, checks and the verdict of the forecast
section/           the report's section
"""
