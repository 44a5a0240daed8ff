"""What is trained: methods, prompts, losses, gradient rules."""
