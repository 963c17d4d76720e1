"""What is shown, asked and measured, in which order: one file a protocol."""
