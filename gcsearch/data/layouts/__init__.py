"""One reader per layout that is not a split JSON: folders, annotation files, MATLAB files, tables."""
