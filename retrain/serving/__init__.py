"""Immutable releases, the route record and the router that serves it."""
