"""Records to the numbers behind pictures, without plotly."""
