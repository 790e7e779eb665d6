"""Serving a reader study: its form, its store of answers, its commands."""
