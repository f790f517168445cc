"""Ways to break the library, each of which the tests must notice."""
