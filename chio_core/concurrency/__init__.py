"""Event loops and processes: what is bound to one of them is made again in another, and closed with it."""
