"""Reading a store from outside, read-only: listing, observed requests, fsck."""
