"""Everything that touches K×K numbers."""
