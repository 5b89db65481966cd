"""Deterministic simulation of a whole gateway: a virtual clock, a seeded network, model peers, checkers.

Owns: everything around `mcpgate_proto.Gateway` that a real run would bring from outside.
Must never: read a clock, draw from a generator other than the world's, or look inside the gateway.
"""
