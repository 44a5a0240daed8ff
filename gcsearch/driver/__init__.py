"""One process's work on a sweep: run, resume, extend, confirm, plan."""
