"""What to try next: samplers, pruning, budgets, warm start."""
