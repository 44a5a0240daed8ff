"""What a user writes and what a trial is measured by; imports no torch, Ray or Optuna."""
