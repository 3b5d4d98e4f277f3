"""Responses and refusals of guards, and the documents that a refusal is sent as.

The sentences are elsewhere: most in `chio_core.evaluation.outcomes`, those of a guard in the guard.
"""
