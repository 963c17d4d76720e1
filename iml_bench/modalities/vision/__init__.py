"""Pictures: grids of digits."""
