"""Optional members of an outgoing chain: cookies, cache, calls, middleware."""
