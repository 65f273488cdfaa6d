"""Sampling and scoring behind one small interface.

interface      what every engine shares: a sample, and text as tokens of a model
transformers   our own loop around a model's forward pass
cache          its cache of keys and values, written in place
vllm           the same on vLLM
vllm_rollouts  vLLM whose weights follow the policy that is being trained
rollouts       what training on a policy's own samples shares
load           which engine it is
"""
