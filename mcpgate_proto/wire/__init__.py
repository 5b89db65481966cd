"""Bytes to messages and back: JSON-RPC envelopes, lines, event streams, HTTP/1.1.

Owns: framing and syntax. Must never: know what a method means, read a clock, or raise for a peer's input.
"""
