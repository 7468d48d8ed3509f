"""Pictures of what models predict."""
