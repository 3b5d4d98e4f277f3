"""The clients of the sidecar, and the carriers that transport their calls.

Every carrier keeps two promises. A caller that stops waiting, at its deadline or because it is cancelled, stops nothing
else: the exchange ends by itself, and its connection is used again or closed. And one carrier serves one event loop (a
blocking carrier: any thread).
"""
