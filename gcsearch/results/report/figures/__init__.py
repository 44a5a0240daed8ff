"""Numbers to pictures, a function for each: from what is known to a `Picture`, its data and how they are drawn."""
