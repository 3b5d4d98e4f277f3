"""The evaluation around the policy: HTTP, state, trust service, receipts."""
