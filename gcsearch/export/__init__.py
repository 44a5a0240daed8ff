"""A champion that stands alone: its files, its card, its classifier, the loss around it."""
