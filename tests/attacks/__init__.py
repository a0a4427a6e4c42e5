"""Peers and strangers that break the rules of the protocol: docs/security.md."""
