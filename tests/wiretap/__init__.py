"""What passes on both hops of a gateway, read at its seam and held against the hop's revision (L0.5)."""
