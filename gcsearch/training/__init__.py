"""Trials in this process: a task with its data, a population of prompts, the loop over epochs."""
