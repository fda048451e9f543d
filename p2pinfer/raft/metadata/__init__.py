"""The metadata that a swarm agrees on: models, placement, membership, access, settings, leases."""
