"""The routes of an application: listed by its framework, described for a sidecar, and checked."""
