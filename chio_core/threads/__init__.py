"""What Django and Flask share: WSGI view, re-readable body, async guards under threads."""
