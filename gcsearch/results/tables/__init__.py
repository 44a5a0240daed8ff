"""Tables of results: what is in them, apart from how each form writes them."""
