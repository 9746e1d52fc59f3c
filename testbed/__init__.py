"""A real Kubernetes on one machine, for tests and trials; docs/testbed.md is its guide."""
