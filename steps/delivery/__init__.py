"""A finished checkpoint for others: whole weights, a card, licences.

deliver   the rule
card      the README of a release
licences  what it rests on, and under which licences that is
"""
