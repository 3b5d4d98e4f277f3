"""What Django and Flask share: WSGI view, re-readable body, async guards under threads.

Threads are those of the server, which run views; only asynchronous guards need one more, with an event loop.
"""
