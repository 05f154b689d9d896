"""Pictures of what sedpa measures."""
