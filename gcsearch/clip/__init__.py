"""The frozen CLIP model: weights, image preparation, the text tower on the positions that count."""
