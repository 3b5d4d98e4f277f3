"""Responses and refusals of guards, and the documents that a refusal is sent as."""
