"""Records to knowledge, and knowledge to tables; no torch."""
