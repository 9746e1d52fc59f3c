"""Kubernetes over its API, for whoever runs, records or gives back; imports its client alone."""
