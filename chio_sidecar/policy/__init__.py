"""The decision without I/O: routes, engine, approvals, budgets."""
