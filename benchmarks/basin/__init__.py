"""What a basin costs as it grows, what it survives, and what the whole Amazon would take."""
