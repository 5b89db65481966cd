"""The client faces: each turns its client's revision into exchanges, and outcomes back into answers."""
