"""The check of a GPU: whether everything works on it, how fast it is, and how fast it is predicted to be."""
