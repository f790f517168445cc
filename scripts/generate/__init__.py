"""Files of the repository that are written by a program: the digits, and the table of the paper's formulas."""
